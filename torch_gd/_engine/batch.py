"""Tensors that one call updates, and what must not have changed before it may be called again."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import repeat
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..clipping.functions import ClipAdaptive, ClipPolicy
from .guard import Guard
from .layout import (
    DEVICE_OF,
    DTYPE_OF,
    SHAPE_OF,
    are_literal,
    in_layout_of,
    is_dense,
    is_literal,
    is_plain,
    literal,
    same_layout,
    same_strides,
)
from .parts import Part

if TYPE_CHECKING:
    from ..optimizers.base import FusedOptimizer


@dataclass(frozen=True)
class Step:
    """What a batch is told of the step it is part of, on its own device.

    Args:
        grad_scale: what `torch.amp.GradScaler` wants gradients divided by.
        found_inf: where it holds a value other than zero, the step is to be left out.
        clip: the policy of the optimizer.
        coefficient: of clipping by global norm, for gradients already divided by `grad_scale`.
    """

    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None
    clip: ClipPolicy | None = None
    coefficient: Tensor | None = None


class FusedTensors(NamedTuple):
    """What torch's fused kernels take, in lists of equal length.

    Args:
        states: by name, in the order of `state_names`.
        steps: counters, already advanced; none where there are none.
        numel: elements of all parameters.
    """

    params: list[Tensor]
    grads: list[Tensor]
    states: list[list[Tensor]]
    steps: list[Tensor]
    numel: int


class Batch(ABC):
    """Parameters that take the same route, with the index of their group and their state.

    Args:
        optimizer: whose they are.
        names: keys of the states that have an element for each of the parameter's, in the rule's order.
    """

    def __init__(self, optimizer: "FusedOptimizer", names: tuple[str, ...]) -> None:
        self.optimizer = optimizer
        self.names = names
        self.params: list[Tensor] = []
        self.states: list[dict[str, Any]] = []
        self.group_of: list[int] = []
        self.grads: list[Tensor] = []
        self.one_by_one = False  # whether a parameter is listed twice
        self.new: list[bool] = []  # whether a parameter's states are new, or for torch to make

    def extend(self, part: Part, missing: bool) -> None:
        """Takes parameters of one group.

        Args:
            part: them, their gradients and states.
            missing: whether their states were missing, or some of them, and are new or for torch to make.
        """
        self.group_of.extend(repeat(part.group, len(part.params)))
        self.params.extend(part.params)
        self.grads.extend(part.grads)
        self.states.extend(part.states)
        self.new.extend(repeat(missing, len(part.params)))

    @abstractmethod
    def freeze(self) -> None:
        """Called once, when all are in, and `grads` are those that the plan was made from."""

    @abstractmethod
    def gather(self) -> bool:
        """Fetches this step's gradients; False if anything has changed and the step must be planned anew."""

    @abstractmethod
    def run(self, step: Step) -> None:
        """Updates all of them."""

    def release(self) -> None:
        """Lets go of what `gather` fetched: held any longer, it would outlive `zero_grad`."""
        self.grads = []


class DenseBatch(Batch):
    """A batch whose kernel walks memory in a straight line and looks at no stride.

    Parameter, gradient and states must then lie in memory alike. A gradient that does not is copied; a parameter that
    is a strided view is updated in a dense stand-in and copied back; a state is laid out anew for good.
    """

    def freeze(self) -> None:
        by_unit = isinstance(self.optimizer.clip, ClipAdaptive)
        self.dense = self.params
        if not (all(map(Tensor.is_contiguous, self.params)) and are_literal(self.params)):
            self.dense = [p if _walkable(p, by_unit) else _stand_in(p, by_unit) for p in self.params]
        self._views = [(p, dense) for p, dense in zip(self.params, self.dense) if p is not dense]
        for name, column in zip(self.names, self.columns()):
            if not same_strides(column, self.dense):
                for dense, state in zip(self.dense, self.states):
                    state[name] = in_layout_of(state[name], dense)
        guarded = [*self.params, *self.guarded(self.columns())]
        self._guard = Guard([*guarded, *self.grads])
        self._described = _description(guarded)
        self._astray: list[int] = []
        if not (same_strides(self.grads, self.dense) and are_literal(self.grads)):
            fit = [same_layout(g, dense) and is_literal(g) for g, dense in zip(self.grads, self.dense)]
            self._astray = [i for i, fits in enumerate(fit) if not fits]
        self._grad_dtypes = [g.dtype for g in self.grads]

    def columns(self) -> list[list[Tensor]]:
        """The states, by name. Not kept: what is moved off a device must leave nothing there."""
        return [list(map(itemgetter(name), self.states)) for name in self.names]

    def guarded(self, columns: list[list[Tensor]]) -> list[Tensor]:
        """States that must still be what they were; where they must still be where they were, none."""
        return []

    @abstractmethod
    def unmoved(self, columns: list[list[Tensor]]) -> bool:
        """Whether all that will be read through an address is still there."""

    def gather(self) -> bool:
        grads = self.grads = [p.grad for p in self.params]  # type: ignore[misc]  # a None is not what is guarded
        try:
            columns = self.columns()
            if not self.unmoved(columns):
                return False
            guarded = [*self.params, *self.guarded(columns)]
            if self._guard.holds(*guarded, *grads):
                astray: Iterable[int] = self._astray
            elif self._fit(guarded):
                astray = range(len(grads))
            else:
                return False
        except (AttributeError, KeyError, TypeError, RuntimeError):  # a state or a gradient is gone, or is no tensor
            return False
        for i in astray:
            grads[i] = in_layout_of(literal(grads[i]), self.dense[i])
        for p, dense in self._views:
            dense.copy_(p)
        return True

    def _fit(self, guarded: list[Tensor]) -> bool:
        """Whether all is, looked at one by one, such as this batch was made for."""
        return (
            _description(guarded) == self._described
            and list(map(DTYPE_OF, self.grads)) == self._grad_dtypes
            and all(map(_belongs, self.params, self.grads))
        )

    def run(self, step: Step) -> None:
        seen = self.update(step)
        for p, dense in self._views:
            p.copy_(dense)
        if not seen:  # what autograd saved for a backward pass is stale now, and it must know
            torch.autograd.graph.increment_version(self.params)

    @abstractmethod
    def update(self, step: Step) -> bool:
        """The update itself, of `self.dense` by `self.grads`; whether autograd saw it, as it does no fused kernel."""


def _walkable(p: Tensor, by_unit: bool) -> bool:
    """Whether a straight walk through memory meets each element once, and one unit after the other if need be."""
    in_order = not by_unit or p.dim() < 2 or p.numel() == 0 or p.stride(0) * len(p) == p.numel()
    return in_order and is_dense(p) and is_literal(p)


def _stand_in(p: Tensor, by_unit: bool) -> Tensor:
    return torch.empty_like(p, memory_format=torch.contiguous_format if by_unit else torch.preserve_format)


def _description(tensors: list[Tensor]) -> list[list[object]]:
    return [list(map(ask, tensors)) for ask in (type, DTYPE_OF, DEVICE_OF, SHAPE_OF, Tensor.stride, Tensor.is_neg)]


def _belongs(p: Tensor, g: Tensor) -> bool:
    return is_plain(g) and p.shape == g.shape and p.device == g.device
