"""Step counters, and products over steps. On the CPU one operation advances hundreds of them; on a GPU a kernel does,
unseen by the host.
"""

from array import array
from collections.abc import Iterable
from operator import itemgetter

import torch
from torch import Tensor

from ..triton_kernels import runtime
from . import backend
from .guard import addresses_of
from .layout import DTYPE_OF, all_on_cpu, moved_to
from .shard_states import states_of_owners
from .spec import State


def join_counters(states: Iterable[State], name: str = "step") -> None:
    """Lay new CPU counters side by side in one buffer, so that one addition advances them all.

    Only counters that nobody has seen yet may be joined, since whoever holds one expects that very tensor to advance.

    Args:
        states: states that have just been made; those without a counter on the CPU are left as they are.
        name: key of the counter.
    """
    if runtime.active.watched():
        return  # a fake counter knows its value only while it is a tensor of its own
    by_dtype: dict[torch.dtype, list[State]] = {}
    for state in states_of_owners(states):
        step = state.get(name)
        if isinstance(step, Tensor) and step.is_cpu and step.dim() == 0:
            by_dtype.setdefault(step.dtype, []).append(state)
    with torch.inference_mode(False):  # they live longer than a step that may be taken in that mode
        for alike in by_dtype.values():
            for state, step in zip(alike, torch.stack([state[name] for state in alike]).unbind()):
                state[name] = step


class HostCounters:
    """Advance CPU step counters in place: those that share a buffer by one addition.

    Counters that somebody else made, or put into a state, each have a buffer of their own.

    Args:
        states: the states whose counters are to be advanced together, each on the CPU.
        name: key of the counter, or of a product over steps.

    Attributes:
        steps: the counters.
    """

    def __init__(self, states: list[State], name: str = "step") -> None:
        self._states = states = states_of_owners(states)
        self._name, self._get = name, itemgetter(name)
        self._arrange(list(map(self._get, states)))

    def _arrange(self, steps: list[Tensor]) -> None:
        self.steps, self._addresses = steps, addresses_of(steps)
        by_buffer: dict[tuple[int, torch.dtype], list[int]] = {}
        for i, step in enumerate(steps):
            by_buffer.setdefault((step.untyped_storage().data_ptr(), step.dtype), []).append(i)
        self._whole: list[Tensor] = []  # buffers that hold nothing but these counters
        self._partial: list[tuple[Tensor, Tensor, Tensor]] = []  # others, with the places of counters, and ones
        order_whole: list[int] = []
        order_partial: list[int] = []
        with torch.inference_mode(False):  # lives longer than a step that may be taken in that mode
            for mine in by_buffer.values():
                mine.sort(key=lambda i: steps[i].storage_offset())
                buffer, places = _buffer_of(steps[mine[0]]), [steps[i].storage_offset() for i in mine]
                if places == list(range(len(buffer))):
                    self._whole.append(buffer)
                    order_whole += mine
                else:
                    ones = torch.ones(len(places), dtype=buffer.dtype, device="cpu")
                    self._partial.append((buffer, torch.tensor(places, device="cpu"), ones))
                    order_partial += mine
            # Tensors of ones: of the number 1, torch would make a tensor for each buffer at every step.
            self._ones = list(map(torch.ones_like, self._whole))
        order = order_whole + order_partial
        in_order = order == list(range(len(order)))
        self._order = None if in_order else sorted(range(len(order)), key=order.__getitem__)
        # Almost always there is one buffer, with the counters in their order.
        alone = in_order and len(self._whole) == 1 and not self._partial
        self._only = self._whole[0] if alone else None

    def find(self) -> bool:
        """Read the counters from the states again, and rearrange them if any was replaced.

        Returns:
            False if a counter is missing, or is not a one-element tensor on the CPU.
        """
        try:
            steps: list[Tensor] = list(map(self._get, self._states))
            if addresses_of(steps) == self._addresses:
                return True
        except (KeyError, TypeError, RuntimeError):  # one is missing, is no tensor, or has no memory
            return False
        if self._name != "step":  # a new plan looks whether it still is a number
            return False
        if not all_on_cpu(steps) or any(step.numel() != 1 for step in steps):
            return False
        self._arrange(steps)
        return True

    def advance(self) -> None:
        """Add 1 to each counter."""
        if self._only is not None:
            self._only.add_(self._ones[0])
        else:
            self._add(1)

    def _add(self, number: int) -> None:
        if self._whole:
            torch._foreach_add_(self._whole, self._ones, alpha=number)
        for buffer, places, ones in self._partial:
            buffer.index_add_(0, places, ones, alpha=number)

    def take_back(self) -> None:
        """Undo `advance`, for a step that has failed before it changed anything else."""
        self._add(-1)

    def multiply(self, factors: list[float]) -> None:
        """Multiply each by a factor, in its own dtype, as torch's operators do."""
        if self._only is not None:
            self._only.mul_(torch.tensor(factors, dtype=self._only.dtype, device="cpu"))
        else:
            torch._foreach_mul_(self.steps, factors)

    def set(self, values: list[float]) -> None:
        """Overwrite each."""
        for step, value in zip(self.steps, values):
            step.fill_(value)

    def values(self) -> list[float]:
        """Return the value of each counter."""
        if self._only is not None:
            only: list[float] = self._only.tolist()
            return only
        buffers = [*self._whole, *(buffer[places] for buffer, places, _ in self._partial)]
        values: list[float] = (buffers[0] if len(buffers) == 1 else torch.cat(buffers)).tolist()
        return values if self._order is None else list(map(values.__getitem__, self._order))


def _buffer_of(step: Tensor) -> Tensor:
    """Return all memory that a counter is part of, as one row."""
    storage = step.untyped_storage()
    return torch.empty(0, dtype=step.dtype, device="cpu").set_(storage, 0, (storage.nbytes() // step.itemsize,), (1,))


class DeviceCounters:
    """Step counters on a device, which a kernel advances at `addresses`.

    Args:
        states: each with the counters. Those that are elsewhere are moved to the device, from the CPU in one copy.
        device: where the kernel is to find them.
        names: keys of the counters, of which the first counts steps.

    Attributes:
        addresses: of all counters of the first name, then of the second, and so on.

    Raises:
        RuntimeError: a counter would have to be moved while a CUDA graph is captured, which would repeat that move at
            each replay.
    """

    def __init__(self, states: list[State], device: torch.device, names: tuple[str, ...] = ("step",)) -> None:
        states = states_of_owners(states)
        self._states, self._device, self._names = states, device, names
        dtypes = set(map(DTYPE_OF, self._all()))
        self.dtype = torch.float64 if dtypes == {torch.float64} else torch.float32
        elsewhere = [(state, name) for name in names for state in states if not self._is_usable(state[name])]
        if elsewhere:
            if runtime.active.capturing():
                raise RuntimeError("step counters cannot be moved to the GPU in a CUDA graph; take a step before it")
            self._move(elsewhere)
        self.addresses = addresses_of(self._all())

    def _all(self) -> list[Tensor]:
        return [state[name] for name in self._names for state in self._states]

    def products(self) -> list[Tensor]:
        """Return those of all names but the first."""
        return self._all()[len(self._states) :]

    def _is_usable(self, step: object) -> bool:
        return isinstance(step, Tensor) and step.device == self._device and step.dtype == self.dtype

    def _move(self, places: list[tuple[State, str]]) -> None:
        with torch.inference_mode(False):  # the counters live longer than a step that may be taken in that mode
            on_host = [(state, name) for state, name in places if state[name].is_cpu]
            if on_host:
                values = array("d", [float(state[name]) for state, name in on_host])
                moved = backend.table.upload(values, self._device).to(self.dtype).unbind()
                for (state, name), step in zip(on_host, moved):
                    state[name] = step
            for state, name in places:
                state[name] = moved_to(state[name].detach(), self._device, self.dtype)

    def take_back(self, found_inf: Tensor | None) -> None:
        """Undo the counting of a step that has failed before it changed anything else, unless it was skipped."""
        for state in self._states:
            state["step"].sub_(1.0 if found_inf is None else (found_inf == 0).to(self.dtype))

    def find(self) -> bool:
        """Read the counters' addresses again; return False if a kernel cannot use one of them any more.

        `addresses` stays the same list until one has moved, so that it need not be uploaded again.
        """
        try:
            steps = self._all()
            addresses = addresses_of(steps)
        except (KeyError, TypeError, RuntimeError):  # one is missing, is no tensor, or has no memory
            return False
        if addresses == self.addresses:
            return set(map(DTYPE_OF, steps)) == {self.dtype}
        if not all(map(self._is_usable, steps)):
            return False
        self.addresses = addresses
        return True
