"""Tensors that one call updates, and what must not have changed before it may be called again."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .clip_grad import ClipAdaptive, ClipPolicy
from .layout import in_layout_of, is_dense, same_layout

if TYPE_CHECKING:
    from .optimizer import FusedOptimizer

_DTYPE_OF = Tensor.dtype.__get__  # type: ignore[attr-defined]  # a descriptor, called for hundreds of tensors
PLAIN = (Tensor, torch.nn.Parameter)  # a subclass may mean anything by its data


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
        self.new = False  # whether torch's implementation is to make the states

    def add(self, group_index: int, p: Tensor, state: dict[str, Any]) -> None:
        self.group_of.append(group_index)
        self.params.append(p)
        self.states.append(state)

    def freeze(self) -> None:  # noqa: B027  # nothing to do is a fair default
        """Called once, when all are in."""

    @abstractmethod
    def gather(self) -> bool:
        """Fetches this step's gradients; False if anything has changed and the step must be planned anew."""

    @abstractmethod
    def run(self, step: Step) -> None:
        """Updates all of them."""


class DenseBatch(Batch):
    """A batch whose kernel walks memory in a straight line and looks at no stride.

    Parameter, gradient and states must then lie in memory alike. A gradient that does not is copied; a parameter that
    is a strided view is updated in a dense stand-in and copied back; a state is laid out anew for good.
    """

    def freeze(self) -> None:
        by_unit = isinstance(self.optimizer.clip, ClipAdaptive)
        self.dense = [p if _walkable(p, by_unit) else _stand_in(p, by_unit) for p in self.params]
        self._views = [(p, dense) for p, dense in zip(self.params, self.dense) if p is not dense]
        for dense, state in zip(self.dense, self.states):
            for name in self.names:
                if state.get(name) is not None:
                    state[name] = in_layout_of(state[name], dense)
        self._all_contiguous = all(map(Tensor.is_contiguous, self.dense))
        self._strides = [dense.stride() for dense in self.dense]
        self._grad_dtypes = [p.grad.dtype for p in self.params if p.grad is not None]
        self._grad_addresses: list[int] = []
        self.addresses = [[dense.data_ptr() for dense in self.dense], self._grad_addresses]
        self._seen = self._fingerprint()
        self.addresses += self._seen[3:]

    def _fingerprint(self) -> list[list[Any]]:
        """Layouts, then what `_trace` makes of parameters and states: nothing may be read through what has changed."""
        columns = [self.params, *(list(map(itemgetter(name), self.states)) for name in self.names)]
        return [
            list(map(Tensor.numel, self.params)),
            list(map(Tensor.is_contiguous if self._all_contiguous else Tensor.stride, self.params)),
            *(self._trace(column) for column in columns),
        ]

    def _trace(self, column: list[Tensor]) -> list[Any]:
        return list(map(Tensor.data_ptr, column))

    def gather(self) -> bool:
        self.grads = [p.grad for p in self.params]  # type: ignore[misc]  # a None is caught below
        try:
            addresses = list(map(Tensor.data_ptr, self.grads))
            if self._fingerprint() != self._seen or list(map(_DTYPE_OF, self.grads)) != self._grad_dtypes:
                return False
        except (KeyError, TypeError, RuntimeError):  # a state or a gradient is gone, or the gradient is sparse now
            return False
        if addresses != self._grad_addresses and not all(map(_belongs, self.params, self.grads)):
            return False
        if not self._laid_out_alike():
            self.grads = list(map(in_layout_of, self.grads, self.dense))
            addresses = list(map(Tensor.data_ptr, self.grads))
        self._grad_addresses = self.addresses[1] = addresses
        for p, dense in self._views:
            dense.copy_(p)
        return True

    def _laid_out_alike(self) -> bool:
        if self._all_contiguous:
            return all(map(Tensor.is_contiguous, self.grads))
        return [g.stride() for g in self.grads] == self._strides or all(map(same_layout, self.grads, self.dense))

    def run(self, step: Step) -> None:
        self.update(step)
        for p, dense in self._views:
            p.copy_(dense)
        # A kernel writes unseen by autograd, which must know that what it saved for a backward pass is stale.
        torch.autograd.graph.increment_version(self.params)

    @abstractmethod
    def update(self, step: Step) -> None:
        """The update itself, of `self.dense` by `self.grads`."""


def _walkable(p: Tensor, by_unit: bool) -> bool:
    """Whether a straight walk through memory meets each element once, and one unit after the other if need be."""
    return is_dense(p) and (not by_unit or p.dim() < 2 or p.numel() == 0 or p.stride(0) * len(p) == p.numel())


def _stand_in(p: Tensor, by_unit: bool) -> Tensor:
    return torch.empty_like(p, memory_format=torch.contiguous_format if by_unit else torch.preserve_format)


def _belongs(p: Tensor, g: Tensor) -> bool:
    return p.shape == g.shape and p.device == g.device and g.layout == torch.strided
