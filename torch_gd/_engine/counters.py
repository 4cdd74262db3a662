"""Step counters. On the CPU one addition advances hundreds of them; on a GPU a kernel does, unseen by the host."""

from array import array
from collections.abc import Collection
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from ..triton_kernels import runtime
from . import backend
from .guard import addresses_of
from .layout import DTYPE_OF, all_on_cpu, moved_to
from .spec import State

_STEP_OF: Any = itemgetter("step")


class PackedCounters:
    """Pack CPU step counters into one buffer, so that one addition advances them all.

    `views` holds the counters: views of the buffer, or separate tensors if other processes share one of them.

    Args:
        states: the states whose counters are to be advanced together, each with a `step` on the CPU.
        all_states: all states of the optimizer. Their counters are packed too, so that plans for other parameters (a
            model's gradients may come and go) find their counters in the same buffer.
    """

    def __init__(self, states: list[State], all_states: Collection[State]) -> None:
        self._states, self._all_states = states, all_states
        self._buffer: Tensor | None = None
        self._ones = torch.empty(0)
        self._chosen: list[int] | None = None  # the places of these counters in the buffer, unless it is all of them
        self._pack([state["step"] for state in states], all_states)

    def _pack(self, steps: list[Tensor], others: Collection[State]) -> None:
        addresses = addresses_of(steps)
        places = self._places_in_buffer(steps, addresses)
        if places is None:
            steps = self._packed_anew(steps, others)
            addresses = addresses_of(steps)
            places = self._places_in_buffer(steps, addresses)
        self.views, self._addresses = steps, addresses
        self._buffer = self._chosen = None
        buffer = steps[0]._base
        if places is None or buffer is None:
            return
        self._buffer = buffer
        with torch.inference_mode(False):  # lives longer than a step that may be taken in that mode
            # A tensor of ones, since torch would make one of the number 1 at every step.
            if places == list(range(len(buffer))):
                self._ones = torch.ones_like(buffer)
            else:
                self._chosen, self._ones = places, torch.zeros_like(buffer)
                self._ones[torch.tensor(places, device="cpu")] = 1

    def _places_in_buffer(self, steps: list[Tensor], addresses: list[int]) -> list[int] | None:
        """Return the places of counters in a buffer that they share and fill, or None."""
        base = steps[0]._base
        if base is None or base.dim() != 1 or len(base) > len(self._all_states) or not base.is_contiguous():
            return None
        # By address, since a view whose `data` was set to other memory still names the base that it had.
        within = range(base.data_ptr(), base.data_ptr() + base.nbytes, base.itemsize)
        if any(step.dim() for step in steps) or not all(map(within.__contains__, addresses)):
            return None
        return list(map(within.index, addresses))

    def _packed_anew(self, steps: list[Tensor], others: Collection[State]) -> list[Tensor]:
        storages = {id(step._base) if step._is_view() else id(step): step for step in steps}.values()
        if any(step.is_shared() for step in storages):  # type: ignore[no-untyped-call]  # torch leaves it untyped
            return steps
        dtype = torch.promote_types(torch.float32, steps[0].dtype)
        mine = set(map(id, self._states))
        more = (state for state in others if id(state) not in mine and _can_be_packed(state.get("step"), dtype))
        states = [*self._states, *more]
        with torch.inference_mode(False), torch.no_grad():
            values = [float(state["step"]) for state in states]
            views = torch.tensor(values, dtype=dtype, device="cpu").unbind()
        for state, view in zip(states, views):
            state["step"] = view
        return list(views[: len(steps)])

    def find(self) -> bool:
        """Find the counters where they are now, and pack them again if some were replaced.

        Returns:
            False if they are not all on the CPU any more.
        """
        try:
            steps = list(map(_STEP_OF, self._states))
            if addresses_of(steps) == self._addresses:
                return True
        except (KeyError, TypeError, RuntimeError):  # one is missing, is no tensor, or has no memory
            return False
        if not all_on_cpu(steps):
            return False
        self._pack(steps, ())  # not the other states' counters: another batch may have found those already
        return True

    def advance(self) -> None:
        """Add 1 to each counter."""
        if self._buffer is None:
            torch._foreach_add_(self.views, 1)
        else:
            self._buffer.add_(self._ones)

    def take_back(self) -> None:
        """Undo `advance`, for a step that has failed before it changed anything else."""
        if self._buffer is None:
            torch._foreach_add_(self.views, -1)
        else:
            self._buffer.sub_(self._ones)

    def values(self) -> list[float]:
        """Return the value of each counter."""
        if self._buffer is None:
            return [float(step) for step in self.views]
        values: list[float] = self._buffer.tolist()
        return values if self._chosen is None else list(map(values.__getitem__, self._chosen))


class DeviceCounters:
    """Step counters on a device, which a kernel advances at `addresses`.

    Args:
        states: each with a `step`. Counters that are elsewhere are moved to the device, those on the CPU in one copy.
        device: where the kernel is to find them.

    Raises:
        RuntimeError: a counter would have to be moved while a CUDA graph is captured, which would repeat that move at
            each replay.
    """

    def __init__(self, states: list[State], device: torch.device) -> None:
        self._states, self._device = states, device
        dtypes = set(map(DTYPE_OF, self._steps()))
        self.dtype = torch.float64 if dtypes == {torch.float64} else torch.float32
        elsewhere = [state for state in states if not self._is_usable(state["step"])]
        if elsewhere:
            if runtime.active.capturing():
                raise RuntimeError("step counters cannot be moved to the GPU in a CUDA graph; take a step before it")
            self._move(elsewhere)
        self.addresses = addresses_of(self._steps())

    def _steps(self) -> list[Tensor]:
        return list(map(_STEP_OF, self._states))

    def _is_usable(self, step: object) -> bool:
        return isinstance(step, Tensor) and step.device == self._device and step.dtype == self.dtype

    def _move(self, states: list[State]) -> None:
        with torch.inference_mode(False):  # the counters live longer than a step that may be taken in that mode
            on_host = [state for state in states if state["step"].is_cpu]
            if on_host:
                values = array("d", [float(state["step"]) for state in on_host])
                for state, step in zip(on_host, backend.table.upload(values, self._device).to(self.dtype).unbind()):
                    state["step"] = step
            for state in states:
                state["step"] = moved_to(state["step"].detach(), self._device, self.dtype)

    def find(self) -> bool:
        """Find the counters where they are now; return False if a kernel cannot use one of them any more.

        `addresses` stays the same list until one has moved, so that it need not be uploaded again.
        """
        try:
            steps = list(map(_STEP_OF, self._states))
            addresses = addresses_of(steps)
        except (KeyError, TypeError, RuntimeError):  # one is missing, is no tensor, or has no memory
            return False
        if addresses == self.addresses:
            return set(map(DTYPE_OF, steps)) == {self.dtype}
        if not all(map(self._is_usable, steps)):
            return False
        self.addresses = addresses
        return True


def _can_be_packed(step: object, dtype: torch.dtype) -> bool:
    if not (isinstance(step, Tensor) and step.is_cpu and step.dtype == dtype and step.dim() == 0):
        return False
    return not step.is_shared()  # type: ignore[no-untyped-call]  # torch leaves it untyped
