"""One clip policy on all ranks: where policies differ, an error instead of ranks that wait for ever."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

import torch.distributed as dist
from torch import Tensor

from .ranks import ProcessGroups
from .shards import is_dtensor, meshes_of

_comparisons: "WeakKeyDictionary[Any, Counter[str]]" = WeakKeyDictionary()  # by process group and parameters, how many


def compare_policies(params: Iterable[Tensor], extra: ProcessGroups, policy: str, waits: bool) -> bool:
    """Raise where ranks have different policies, of which some would wait for sums to which others add nothing.

    Ranks talk through the groups' stores, not through the groups, so that one that has no policy need not wait.

    Args:
        params: all parameters, over whose meshes policies are compared.
        extra: further process groups.
        policy: this rank's, in words.
        waits: whether the policy waits for other ranks at each step.

    Returns:
        Whether there are other ranks.

    Raises:
        RuntimeError: another rank has another policy, or does not tell.
    """
    params = list(params)
    shapes = sorted(tuple(p.shape) for p in params if is_dtensor(p))
    of_dtensors = hashlib.sha256(repr(shapes).encode()).hexdigest()
    groups = {group: of_dtensors for mesh in meshes_of(params) for group in mesh.get_all_groups()}
    groups |= dict.fromkeys(extra, "")  # whose ranks hold other parameters
    others = {group: key for group, key in groups.items() if group.size() > 1}
    for group, parameters in others.items():
        if "fake" not in dist.get_backend_config(group):  # has no other ranks
            _compare(group, parameters, policy, waits)
    return bool(others)


def _compare(group: Any, parameters: str, policy: str, waits: bool) -> None:
    counts = _comparisons.setdefault(group, Counter())
    counts[parameters] += 1
    key, store = f"torch_gd/clip/{parameters}/{counts[parameters]}", group.get_group_store()
    first = store.compare_set(f"{key}/first", "", policy).decode()
    if first != policy:
        store.set(f"{key}/other", policy)
    if store.add(f"{key}/arrived", 1) == group.size():
        store.set(f"{key}/all", "arrived")
    if waits and first == policy:
        try:
            store.wait([f"{key}/all"])
        except dist.DistStoreError as error:
            raise RuntimeError(
                f"not all ranks of process group {group.group_name!r} have come to the first step of an optimizer that "
                f"clips by {policy}; every rank must take the same steps"
            ) from error
        first = store.get(f"{key}/other").decode() if store.check([f"{key}/other"]) else first
    if first != policy:
        raise RuntimeError(
            f"this rank clips by {policy}, and another rank of process group {group.group_name!r} by {first}; give "
            "the optimizer the same clip on every rank"
        )
