"""Tensors that one call updates, and what must not have changed before it may be called again."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable
from itertools import chain
from operator import itemgetter
from typing import Any, ClassVar

import torch
from torch import Tensor

from .assignment import Assignment
from .clip import Clip, StepInputs, unit_limits
from .counters import DeviceCounters, HostCounters
from .guard import Guard
from .layout import (
    DEVICE_OF,
    DTYPE_OF,
    SHAPE_OF,
    all_have_real_storage,
    has_real_storage,
    in_layout_of,
    is_dense,
    is_plain,
    same_layout,
    same_strides,
    with_real_storage,
)
from .shard_states import LocalState, StateColumn
from .shards import Shards
from .spec import Algorithm, Group, State


class Batch(ABC):
    """Parameters that take the same route, with their groups' indices and their states.

    Args:
        algorithm: the optimizer's.
        assignment: the parameters, with gradients, states and the spec that all their groups share.
        clip: the optimizer's clip policy.
    """

    writes_gradients: ClassVar[bool] = True  # to clip or unscale them

    def __init__(self, algorithm: Algorithm, assignment: Assignment, clip: Clip | None) -> None:
        self.algorithm, self.spec, self.clip = algorithm, assignment.spec, clip
        self.group_of = assignment.group_of
        self.params, self.grads, self.states = assignment.params, assignment.grads, assignment.states
        self.new = assignment.is_new
        self.spread_over = assignment.spread_over
        self.shards = None if assignment.owners is None else Shards(assignment.owners)

    @property
    def device(self) -> torch.device:
        """Return the device of all parameters."""
        return self.params[0].device

    @property
    def holders(self) -> list[Tensor]:
        """Return the tensors that the user knows, which hold the gradients: DTensors, if the parameters are shards."""
        return self.params if self.shards is None else self.shards.owners

    def fetch_grads(self) -> list[Any]:
        """Return this step's gradients, None where there is none."""
        return [p.grad for p in self.params] if self.shards is None else self.shards.grads()

    @abstractmethod
    def gather(self) -> bool:
        """Fetch this step's gradients and states; return False if a change calls for a new plan."""

    def placed(self) -> None:  # noqa: B027  # most batches need do nothing
        """Take note that gradients are filled in that `gather` left uninitialized, since they are placed otherwise."""

    def treat(self, inputs: StepInputs) -> StepInputs | None:
        """Do to gradients in place what the update will not do as it reads them.

        Returns:
            What is left for the update to do; None if the step is to be left out.
        """
        return inputs

    @abstractmethod
    def run(self, groups: list[Group], inputs: StepInputs) -> None:
        """Update the parameters."""

    def layer_step(self, groups: list[Group], inputs: StepInputs) -> Generator[Tensor, Tensor, None]:
        """Update the parameters in two halves, if the step is layer-wise and each rank has a part of every tensor.

        Yields:
            Sums of squares of each parameter here and of what is measured of it, float64, shape (2, tensors). Those of
            the whole tensors must be sent back.
        """
        raise NotImplementedError

    def partial_sums(self) -> Any:
        """Return the kernels' partial sums over the gradients; None where the kernels are not used."""
        return None

    def release(self) -> None:
        """Let go of what `gather` fetched, which would otherwise outlive `zero_grad`."""
        self.grads = []
        if self.shards is not None:
            self.shards.moves = []


class DenseBatch(Batch):
    """A batch for kernels that walk memory in a straight line and look at no stride.

    Parameter, gradient and states must then lie in memory alike. A gradient that does not is copied; a parameter that
    is a strided view is updated in a dense stand-in and copied back; a state is laid out anew for good.
    """

    def __init__(self, algorithm: Algorithm, assignment: Assignment, clip: Clip | None) -> None:
        super().__init__(algorithm, assignment, clip)
        by_unit = unit_limits(clip) is not None
        self.dense = self.params
        if not (all(map(Tensor.is_contiguous, self.params)) and all_have_real_storage(self.params)):
            self.dense = [p if is_walkable(p, by_unit) else _stand_in(p, by_unit) for p in self.params]
        self._stand_ins = [(p, dense) for p, dense in zip(self.params, self.dense) if p is not dense]
        self._columns = [_fetcher(self.states, name) for name in self.spec.state_names]
        for name, column in zip(self.spec.state_names, self._fetch_states()):
            if not name.endswith("_scale") and not same_strides(column, self.dense):
                for dense, state in zip(self.dense, self.states):
                    state[name] = in_layout_of(state[name], dense)
        self.columns = self._fetch_states()
        self._guard = Guard([*self.params, *self.grads, *chain.from_iterable(self.columns)])
        self._description = _description([*self.params, *chain.from_iterable(self.columns)])
        self._grad_dtypes = [g.dtype for g in self.grads]
        self._grads_to_relayout: list[int] = []
        if not (same_strides(self.grads, self.dense) and all_have_real_storage(self.grads)):
            fits = [same_layout(g, dense) and has_real_storage(g) for g, dense in zip(self.grads, self.dense)]
            self._grads_to_relayout = [i for i, fit in enumerate(fits) if not fit]
        self.counters: HostCounters | DeviceCounters | None = None

    def _fetch_states(self) -> list[list[Tensor]]:
        return [fetch() for fetch in self._columns]

    def gather(self) -> bool:
        grads = self.grads = self.fetch_grads()  # a guard refuses None
        try:
            columns = self.columns = self._fetch_states()
        except KeyError:  # a state was deleted
            return False
        relayout: Iterable[int] = self._grads_to_relayout
        if not self._guard.holds(*self.params, *grads, *chain.from_iterable(columns)):
            if not self._still_compatible():
                return False
            relayout = range(len(grads))
        if self.counters is not None and not self.counters.find():
            return False
        for i in relayout:
            grads[i] = in_layout_of(with_real_storage(grads[i]), self.dense[i])
        for p, dense in self._stand_ins:
            dense.copy_(p)
        return True

    def release(self) -> None:
        super().release()
        self.columns = []

    def _still_compatible(self) -> bool:
        """Compare every tensor with the plan: the slow check, for when a guard does not hold."""
        tensors = [*self.params, *chain.from_iterable(self.columns)]
        if not all(isinstance(tensor, Tensor) for tensor in (*tensors, *self.grads)):
            return False
        return (
            _description(tensors) == self._description
            and list(map(DTYPE_OF, self.grads)) == self._grad_dtypes
            and all(map(_fits_parameter, self.params, self.grads))
        )

    def run(self, groups: list[Group], inputs: StepInputs) -> None:
        self._end(self.update(groups, inputs))

    def layer_step(self, groups: list[Group], inputs: StepInputs) -> Generator[Tensor, Tensor, None]:
        self._end((yield from self.update_layers(groups, inputs)))

    def _end(self, seen: bool) -> None:
        for p, dense in self._stand_ins:
            p.copy_(dense)
        if not seen and self.shards is None:  # so that a backward pass through what autograd had saved raises
            torch.autograd.graph.increment_version(self.params)

    @abstractmethod
    def update(self, groups: list[Group], inputs: StepInputs) -> bool:
        """Update `self.dense` by `self.grads`; return whether autograd has seen it."""

    @abstractmethod
    def update_layers(self, groups: list[Group], inputs: StepInputs) -> Generator[Tensor, Tensor, bool]:
        """Do what `update` does in two halves, as `layer_step`."""


def _fetcher(states: list[State], name: str) -> Callable[[], list[Tensor]]:
    """Return a function that fetches a state of all parameters."""
    shards = [state for state in states if isinstance(state, LocalState)]
    if shards:
        return StateColumn(shards, name).fetch
    get = itemgetter(name)
    return lambda: list(map(get, states))


def is_walkable(p: Tensor, by_unit: bool) -> bool:
    """Return whether a straight walk through memory meets each element once; `by_unit`, also row after row."""
    in_order = not by_unit or p.dim() < 2 or p.numel() == 0 or p.stride(0) * len(p) == p.numel()
    return in_order and is_dense(p) and has_real_storage(p)


def _stand_in(p: Tensor, by_unit: bool) -> Tensor:
    return torch.empty_like(p, memory_format=torch.contiguous_format if by_unit else torch.preserve_format)


def _description(tensors: list[Tensor]) -> list[list[object]]:
    if not all(map(is_plain, tensors)):
        return []
    return [list(map(ask, tensors)) for ask in (type, DTYPE_OF, DEVICE_OF, SHAPE_OF, Tensor.stride, Tensor.is_neg)]


def _fits_parameter(p: Tensor, g: Tensor) -> bool:
    return is_plain(g) and p.shape == g.shape and p.device == g.device
