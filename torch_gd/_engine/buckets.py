"""Updates during backward: gradients wait in buckets, and when they are many, the first bucket is updated and freed."""

from collections import defaultdict
from collections.abc import MutableMapping

import torch
from torch import Tensor

from .clip import Clip
from .engine import Engine
from .spec import Algorithm, Group, State
from .storage import NUMBERS


class Bucket:
    """Parameters on one device that are updated together: always the same ones, whose engine keeps their plan.

    Args:
        algorithm: the optimizer's.
    """

    def __init__(self, algorithm: Algorithm) -> None:
        self._engine = Engine(algorithm)
        self._engine.compared = True  # ranks compare policies in step(), all at the same place
        self._params: dict[int, list[Tensor]] = {}  # by the index of their group
        self._names: dict[int, list[str]] = {}
        self._numbers: dict[int, list[int]] = {}

    def add(self, p: Tensor, group: int, name: str, number: int) -> None:
        """Take one more parameter."""
        self._params.setdefault(group, []).append(p)
        self._names.setdefault(group, []).append(name)
        self._numbers.setdefault(group, []).append(number)

    def update(self, groups: list[Group], states: MutableMapping[Tensor, State], clip: Clip | None) -> None:
        """Update those of its parameters that have a gradient, and let go of their gradients.

        Args:
            groups: the optimizer's parameter groups.
            states: its states.
            clip: its clip policy.

        Raises:
            RuntimeError: a gradient or a state that cannot be used, named; none of them has been updated then.
            TypeError, ValueError: an option of a group that cannot be used; none has been updated then either.
        """
        params = [p for i in range(len(groups)) for p in self._params.get(i, [])]  # as states are made
        held: MutableMapping[Tensor, State] = defaultdict(dict, {p: states[p] for p in params if p in states})
        views = [
            {
                **group,
                "params": self._params.get(i, []),
                "param_names": self._names.get(i, []),
                NUMBERS: self._numbers.get(i, []),
            }
            for i, group in enumerate(groups)
        ]
        try:
            self._engine.step(views, held, clip)
        finally:
            states.update(held)
        for p in params:
            p.grad = None


class Buckets:
    """The buckets of an optimizer's parameters, formed in the order in which gradients first arrive.

    There is one rule: when the gradients that wait on a device come to `limit` bytes, the bucket that has waited
    longest is updated. A parameter without a bucket joins the newest one, which takes no new parameters after its first
    update. So the first backward pass makes the buckets, and later ones meet them again: as long as gradients arrive in
    one order, each is updated when its last gradient arrives. If some come late or not at all, the bucket is updated
    without them, and what comes late waits again; at no time do more than `limit` bytes wait, and the last gradient.

    Args:
        algorithm: the optimizer's.
        limit: bytes of gradients that may wait on each device.
    """

    def __init__(self, algorithm: Algorithm, limit: int) -> None:
        self._algorithm, self._limit = algorithm, limit
        self._bucket_of: dict[Tensor, Bucket] = {}
        self._last: dict[torch.device, Bucket] = {}  # by device, the one that parameters without a bucket join
        self._waiting: dict[torch.device, dict[Bucket, int]] = {}  # waiting bytes by bucket, oldest first

    def __len__(self) -> int:
        return len(set(self._bucket_of.values()))

    def take(self, p: Tensor, group: int, name: str, number: int, nbytes: int) -> Bucket | None:
        """Take note that a parameter's gradient has arrived; return a bucket that is to be updated now, or None.

        Args:
            p: the parameter.
            group: the index of its group.
            name: its name, for error messages.
            number: its place among all of the optimizer's.
            nbytes: bytes of the gradient; the same on all ranks, so that they update the same buckets.
        """
        if p not in self._bucket_of:
            self._bucket_of[p] = self._last.setdefault(p.device, Bucket(self._algorithm))
            self._bucket_of[p].add(p, group, name, number)
        bucket, waiting = self._bucket_of[p], self._waiting.setdefault(p.device, {})
        waiting[bucket] = waiting.get(bucket, 0) + nbytes
        if sum(waiting.values()) < self._limit:
            return None
        first = next(iter(waiting))
        del waiting[first]
        if self._last.get(p.device) is first:
            del self._last[p.device]
        return first

    def forget_waiting(self) -> None:
        """Begin anew: what has waited has been updated by others."""
        self._waiting.clear()
