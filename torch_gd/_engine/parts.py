"""A group's parameters, divided by what decides their route: asked of all at once, since there may be thousands."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import compress, repeat
from operator import attrgetter, eq, is_not, itemgetter
from typing import Any

from torch import Tensor

_ABOUT = attrgetter("dtype", "device", "layout")


@dataclass(frozen=True)
class Part:
    """Parameters of one group that are alike, in the group's order, in lists of equal length.

    Args:
        group: its index.
        params: parameters that have a gradient.
        grads: their gradients.
        states: theirs, once they are known.
        repeated: whether they are listed more than once.
    """

    group: int
    params: list[Tensor]
    grads: list[Tensor]
    states: list[dict[str, Any]]
    repeated: bool = False

    def divided(self, keys: Sequence[Hashable]) -> "list[tuple[Any, Part]]":
        """By a key for each parameter."""
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
        """Of each parameter's states, None for one that is not there."""
        try:
            columns = [map(attrgetter("dtype"), map(itemgetter(name), self.states)) for name in names]
            return list(zip(*columns)) if names else [()] * len(self.states)
        except (AttributeError, KeyError):  # not there, or None
            return [tuple(getattr(state.get(name), "dtype", None) for name in names) for state in self.states]


def parts_of(group: int, params: list[Tensor], repeated: set[int]) -> list[Part]:
    """The parameters of a group that have gradients, by type, dtype, device and layout of both.

    Args:
        group: its index.
        params: all of its parameters.
        repeated: ids of those listed more than once.
    """
    grads = [p.grad for p in params]
    there = list(map(is_not, grads, repeat(None)))
    present = Part(group, list(compress(params, there)), list(compress(grads, there)), [])  # type: ignore[arg-type]  # no None is left
    kinds = zip(
        map(repeated.__contains__, map(id, present.params)),
        *(map(ask, tensors) for tensors in (present.params, present.grads) for ask in (type, _ABOUT)),
    )
    return [replace(part, repeated=kind[0]) for kind, part in present.divided(list(kinds))]
