"""Parameters that are alike: a group's tensors, divided by what decides their route.

Every question is asked of all tensors at once, since there may be thousands.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import compress, repeat
from operator import attrgetter, eq, is_not, itemgetter
from typing import Any

from torch import Tensor

from .spec import State

_DTYPE_DEVICE_LAYOUT = attrgetter("dtype", "device", "layout")


@dataclass(frozen=True)
class Part:
    """Parameters of one group that are alike, in the group's order, in lists of equal length.

    Args:
        group: index of the group.
        params: parameters that have a gradient.
        grads: their gradients.
        states: their states, once these are known.
        repeated: whether each of them is listed more than once in the optimizer.
    """

    group: int
    params: list[Tensor]
    grads: list[Tensor]
    states: list[State]
    repeated: bool = False

    def divided_by(self, keys: Sequence[Hashable]) -> "list[tuple[Any, Part]]":
        """Return the parts that have equal keys, with their key; `keys` holds one for each parameter."""
        different = list(dict.fromkeys(keys))
        if len(different) == 1:
            return [(different[0], self)]
        return [(key, self._chosen(list(map(eq, keys, repeat(key))))) for key in different]

    def _chosen(self, which: list[bool]) -> "Part":
        return replace(
            self,
            params=list(compress(self.params, which)),
            grads=list(compress(self.grads, which)),
            states=list(compress(self.states, which)),
        )

    def state_dtypes(self, names: tuple[str, ...]) -> list[tuple[Any, ...]]:
        """Return the dtypes of each parameter's states, None for a state that is not there."""
        try:
            columns = [map(attrgetter("dtype"), map(itemgetter(name), self.states)) for name in names]
            return list(zip(*columns)) if names else [()] * len(self.states)
        except (AttributeError, KeyError):  # a state is missing, or None
            return [tuple(getattr(state.get(name), "dtype", None) for name in names) for state in self.states]


def parts_of(group: int, params: list[Tensor], grads: list[Tensor | None], repeated: set[int]) -> list[Part]:
    """Return the parameters of a group that have gradients, divided by type, dtype, device and layout of both.

    Args:
        group: index of the group.
        params: all of its parameters.
        grads: the gradient of each, or None.
        repeated: ids of the parameters that are listed more than once.
    """
    has_grad = list(map(is_not, grads, repeat(None)))
    present = Part(group, list(compress(params, has_grad)), list(compress(grads, has_grad)), [])  # type: ignore[arg-type]  # no None is left
    kinds = zip(
        map(repeated.__contains__, map(id, present.params)),
        *(map(ask, tensors) for tensors in (present.params, present.grads) for ask in (type, _DTYPE_DEVICE_LAYOUT)),
    )
    return [replace(part, repeated=kind[0]) for kind, part in present.divided_by(list(kinds))]
