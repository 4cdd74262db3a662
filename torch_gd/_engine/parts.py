"""Parameters that are alike: a group's tensors, divided by what decides their route.

Every question is asked of all tensors at once, since there may be thousands.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import compress, repeat
from operator import attrgetter, eq, is_not, itemgetter
from typing import Any

import torch
from torch import Tensor

from .encoding import Storage
from .layout import is_plain, memory_span
from .ranks import ProcessGroups, groups_of
from .shard_states import LocalState
from .shards import local_tensors, shard_or_empty
from .spec import Group, State

_DTYPE_DEVICE_LAYOUT = attrgetter("dtype", "device", "layout")


@dataclass(frozen=True)
class Part:
    """Parameters of one group that are alike, in the group's order, in lists of equal length.

    Args:
        group: index of the group.
        params: parameters that have a gradient.
        grads: their gradients.
        states: their states, once these are known.
        in_turn: whether they must be updated one after the other, see `ids_in_turn`.
        owners: DTensors, if the parameters are the shards of these.
        storage: how they are stored, if not plainly.
        spread_over: process groups over whose ranks the parameters are spread, where a policy adds up over these.
    """

    group: int
    params: list[Tensor]
    grads: list[Tensor]
    states: list[State]
    in_turn: bool = False
    owners: list[Tensor] | None = None
    spread_over: ProcessGroups = ()
    storage: Storage | None = None

    @property
    def holders(self) -> list[Tensor]:
        """Return the tensors that the user knows, which hold gradients and states: owners, or the parameters."""
        return self.params if self.owners is None else self.owners

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
            owners=None if self.owners is None else list(compress(self.owners, which)),
        )

    def as_shards(self) -> "Part":
        """Return the part of the shards of DTensors."""
        grads = list(map(shard_or_empty, self.params, self.grads))
        return replace(self, params=local_tensors(self.params), grads=grads, owners=self.params)

    def by_ranks(self) -> "list[Part]":
        """Return the part divided by the process groups over whose ranks the parameters are spread."""
        if self.owners is None:
            return [self]
        return [replace(some, spread_over=over) for over, some in self.divided_by(groups_of(self.owners))]

    def of_parameters(self, states: Iterable[State]) -> list[State]:
        """Return the states of the holders as those of the parameters."""
        return list(states) if self.owners is None else list(map(LocalState, self.owners, states))

    def state_dtypes(self, names: tuple[str, ...]) -> list[tuple[Any, ...]]:
        """Return the dtypes of each parameter's states, None for a state that is not there."""
        try:
            columns = [map(attrgetter("dtype"), map(itemgetter(name), self.states)) for name in names]
            return list(zip(*columns)) if names else [()] * len(self.states)
        except (AttributeError, KeyError):  # a state is missing, or None
            return [tuple(getattr(state.get(name), "dtype", None) for name in names) for state in self.states]


def parts_of(group: int, params: list[Tensor], grads: list[Tensor | None], in_turn: set[int]) -> list[Part]:
    """Return the parameters of a group that have gradients, divided by type, dtype, device and layout of both.

    Args:
        group: index of the group.
        params: all of its parameters.
        grads: the gradient of each, or None.
        in_turn: ids of the parameters that must be updated one after the other.
    """
    has_grad = list(map(is_not, grads, repeat(None)))
    present = Part(group, list(compress(params, has_grad)), list(compress(grads, has_grad)), [])  # type: ignore[arg-type]  # no None is left
    kinds = zip(
        map(in_turn.__contains__, map(id, present.params)),
        *(map(ask, tensors) for tensors in (present.params, present.grads) for ask in (type, _DTYPE_DEVICE_LAYOUT)),
    )
    return [replace(part, in_turn=kind[0]) for kind, part in present.divided_by(list(kinds))]


def ids_in_turn(groups: list[Group]) -> set[int]:
    """Return the ids of parameters whose updates cannot be joined: listed more than once, or sharing memory."""
    params = [p for group in groups for p in group["params"]]
    counts = Counter(map(id, params))
    return {key for key, count in counts.items() if count > 1} | {id(p) for p in sharing_memory(params)}


def sharing_memory(params: Iterable[Tensor]) -> list[Tensor]:
    """Return the parameters that may share memory with another one: their addresses lie in intervals that overlap."""
    by_device: dict[torch.device, list[tuple[int, int, Tensor]]] = {}
    different = list(dict.fromkeys(params))
    for p, data in zip(different, local_tensors(different)):
        if data.device.type != "meta" and is_plain(data) and data.numel():
            by_device.setdefault(data.device, []).append((*memory_span(data), p))
    found = []
    for spans in by_device.values():
        spans.sort(key=itemgetter(0))
        _, furthest, holder = spans[0]
        for start, end, p in spans[1:]:
            if start < furthest:
                found += [holder, p]
            if end > furthest:
                furthest, holder = end, p
    return found
