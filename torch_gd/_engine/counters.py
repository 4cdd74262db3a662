"""Step counters: on the host they are joined, and one addition serves hundreds; on a device a kernel advances them."""

from array import array
from collections.abc import Collection
from operator import is_, itemgetter
from typing import Any

import torch
from torch import Tensor

from . import backend
from .guard import Places
from .layout import DTYPE_OF, moved_to, on_cpu


class JoinedCounters:
    """The `step` of each state, in `views`: views of one buffer, unless other processes share one of them.

    Args:
        states: each with a `step` on the CPU.
        all_states: the optimizer's. Their counters are joined too, so that of each plan for other parameters, of those
            whose gradients come and go, the counters are in the same buffer.
    """

    def __init__(self, states: list[dict[str, Any]], all_states: Collection[dict[str, Any]]) -> None:
        self._states, self._all_states = states, all_states
        self._buffer: Tensor | None = None
        self._chosen: list[int] | None = None  # which elements of the buffer, unless all in order
        self._join([state["step"] for state in states], all_states)

    def _join(self, steps: list[Tensor], others: Collection[dict[str, Any]]) -> None:
        places = Places(steps)
        indices = self._indices(steps, places.addresses)
        if indices is None:
            steps = self._joined_anew(steps, others)
            places = Places(steps)
            indices = self._indices(steps, places.addresses)
        self.views, self._places = steps, places
        self._ones: Tensor | int = 1
        self._buffer = self._chosen = None
        buffer = steps[0]._base
        if indices is None or buffer is None:
            return
        self._buffer = buffer
        if indices != list(range(len(buffer))):
            self._chosen = indices
            with torch.inference_mode(False):  # outlives whatever this step is taken in
                self._ones = torch.zeros_like(buffer)
                self._ones[torch.tensor(indices, device="cpu")] = 1

    def _indices(self, steps: list[Tensor], addresses: list[int]) -> list[int] | None:
        """Where in one buffer they are; None if they are in several, or it holds much else."""
        base = steps[0]._base
        if base is None or base.dim() != 1 or len(base) > len(self._all_states) or not base.is_contiguous():
            return None
        # By address: a view whose `data` was set to other memory still names the base that it had.
        within = range(base.data_ptr(), base.data_ptr() + base.nbytes, base.itemsize)
        if any(step.dim() for step in steps) or not all(map(within.__contains__, addresses)):
            return None
        return list(map(within.index, addresses))

    def _joined_anew(self, steps: list[Tensor], others: Collection[dict[str, Any]]) -> list[Tensor]:
        storages = {id(step._base) if step._is_view() else id(step): step for step in steps}.values()
        if any(step.is_shared() for step in storages):  # type: ignore[no-untyped-call]  # torch leaves it untyped
            return steps
        dtype = torch.promote_types(torch.float32, steps[0].dtype)
        mine = set(map(id, self._states))
        joined = (state for state in others if id(state) not in mine and _may_join(state.get("step"), dtype))
        states = [*self._states, *joined]
        with torch.inference_mode(False), torch.no_grad():
            values = [float(state["step"]) for state in states]
            views = torch.tensor(values, dtype=dtype, device="cpu").unbind()
        for state, view in zip(states, views):
            state["step"] = view
        return list(views[: len(steps)])

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
        self._join(steps, ())  # no others': another batch of this step may have gathered them already
        return True

    def advance(self) -> None:
        if self._buffer is None:
            torch._foreach_add_(self.views, 1)
        else:
            self._buffer.add_(self._ones)

    def values(self) -> list[float]:
        if self._buffer is None:
            return [float(step) for step in self.views]
        found: list[float] = self._buffer.tolist()
        return found if self._chosen is None else list(map(found.__getitem__, self._chosen))


class DeviceCounters:
    """The `step` of each state on a device, where a kernel advances it: once there, the host never reads it.

    Args:
        states: each with a `step`; one that is elsewhere is moved, those on the CPU in one copy.
        device: where the kernel is to find them.

    Raises:
        RuntimeError: one would have to be moved while a CUDA graph is captured, which would do so at each replay.
    """

    def __init__(self, states: list[dict[str, Any]], device: torch.device) -> None:
        self._states, self._device = states, device
        self._steps = list(map(itemgetter("step"), states))
        dtypes = set(map(DTYPE_OF, self._steps))
        self.dtype = torch.float64 if dtypes == {torch.float64} else torch.float32
        elsewhere = [state for state, step in zip(states, self._steps) if not self._is_here(step)]
        if elsewhere:
            if backend.table.capturing(device):
                raise RuntimeError("step counters cannot be moved to the GPU in a CUDA graph; take a step before it")
            self._fetch(elsewhere)
        self._places = Places(self._steps)

    def _is_here(self, step: Tensor) -> bool:
        return step.device == self._device and step.dtype == self.dtype

    def _fetch(self, states: list[dict[str, Any]]) -> None:
        with torch.inference_mode(False):  # outlives whatever this step is taken in
            on_host = [state for state in states if state["step"].is_cpu]
            if on_host:
                values = array("d", [float(state["step"]) for state in on_host])
                for state, step in zip(on_host, backend.table.upload(values, self._device).to(self.dtype).unbind()):
                    state["step"] = step
            for state in states:
                state["step"] = moved_to(state["step"].detach(), self._device, self.dtype)
        self._steps = list(map(itemgetter("step"), self._states))

    @property
    def addresses(self) -> list[int]:
        """Where they are; the same list until one has moved."""
        return self._places.addresses

    def gather(self) -> bool:
        """Finds them where they are now; False if they are no longer such as a kernel can be told of.

        Raises:
            AttributeError, KeyError, RuntimeError, TypeError: one is no tensor any more.
        """
        steps = list(map(itemgetter("step"), self._states))
        if all(map(is_, steps, self._steps)) and self._places.hold(steps):
            return True
        if not all(map(self._is_here, steps)):
            return False
        self._steps = steps
        self._places.follow(steps)
        return True


def _may_join(step: object, dtype: torch.dtype) -> bool:
    if not (isinstance(step, Tensor) and step.is_cpu and step.dtype == dtype and step.dim() == 0):
        return False
    return not step.is_shared()  # type: ignore[no-untyped-call]  # torch leaves it untyped
