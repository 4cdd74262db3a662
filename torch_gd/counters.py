"""Step counters on the host, joined: one addition serves hundreds."""

from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from .guard import Places
from .layout import on_cpu


class JoinedCounters:
    """The `step` of each state, in `views`, made views of one buffer; unless other processes share one of them.

    Args:
        states: each with a `step` on the CPU.
    """

    def __init__(self, states: list[dict[str, Any]]) -> None:
        self._states = states
        self._join([state["step"] for state in states])

    def _join(self, steps: list[Tensor]) -> None:
        self._buffer: Tensor | None = None
        self.views = steps
        storages = {id(step._base) if step._is_view() else id(step): step for step in steps}.values()
        if not any(step.is_shared() for step in storages):  # type: ignore[no-untyped-call]  # torch leaves it untyped
            dtype = torch.promote_types(torch.float32, steps[0].dtype)
            with torch.inference_mode(False), torch.no_grad():  # they outlive whatever this step is taken in
                self._buffer = torch.tensor([float(step) for step in steps], dtype=dtype, device="cpu")
                self.views = list(self._buffer.unbind())
        self._places = Places(self.views)
        for state, view in zip(self._states, self.views):
            state["step"] = view

    def gather(self) -> bool:
        """Joins them anew where they were loaded, reset or joined by another; False if they are not on the CPU now.

        Raises:
            AttributeError, KeyError, RuntimeError, TypeError: one is no tensor any more.
        """
        steps = list(map(itemgetter("step"), self._states))
        if self._places.hold(steps):
            return True
        if not on_cpu(steps):
            return False
        self._join(steps)
        return True

    def advance(self) -> None:
        if self._buffer is not None:
            self._buffer.add_(1)
        else:
            torch._foreach_add_(self.views, 1)

    def values(self) -> list[float]:
        found: list[float] = [float(step) for step in self.views] if self._buffer is None else self._buffer.tolist()
        return found
