"""Ranks that train one model together: who they are, and what they agree on.

Every rank must take the same decisions, such as when to stop: one that goes on alone waits for the others for ever.
"""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .ranks import all_reduce
from .shards import meshes_of, whole_on_every_rank

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

T = TypeVar("T")


def reshard(modules: Iterable[nn.Module]) -> None:
    """Have FSDP2 put its shards back into modules; after a forward pass alone, whole parameters are in their place.

    Nothing is communicated.
    """
    kind = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", ())
    for module in modules:
        if isinstance(module, kind):
            module.reshard()


def groups_sharing(model: nn.Module) -> "tuple[ProcessGroup, ...]":
    """Return the process groups whose ranks train a model together, none if one process does; reshards FSDP2 modules.

    They are the groups of `DistributedDataParallel` or FSDP1, and those of every mesh that a parameter is on.
    """
    modules = list(model.modules())
    reshard(modules)
    groups: list[Any] = [getattr(module, "process_group", None) for module in modules]
    for mesh in meshes_of(model.parameters()):
        groups += mesh.get_all_groups()
    kind = getattr(dist, "ProcessGroup", ())  # absent from a torch without torch.distributed
    return tuple(dict.fromkeys(g for g in groups if isinstance(g, kind) and dist.get_world_size(g) > 1))


def is_first(groups: "tuple[ProcessGroup, ...]") -> bool:
    """Return whether this rank is the one that speaks for all."""
    return all(dist.get_rank(group) == 0 for group in groups)


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor without the graph, and as a plain one: parts of a DTensor are added up or put together."""
    return whole_on_every_rank(tensor.detach())


def mean(value: Tensor, groups: "tuple[ProcessGroup, ...]") -> Tensor:
    """Return the mean over the ranks, to the bit the same on all of them; every rank must call it."""
    value = whole(value)
    if groups:
        value = value.to(torch.float64, copy=True)
    for group in groups:
        all_reduce(value, dist.ReduceOp.SUM, (group,))
        value /= dist.get_world_size(group)
    return value


def gathered(value: T, group: "ProcessGroup | None") -> list[T]:
    """Return what each rank of a group passed, in the order of ranks; every rank must call it."""
    found: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(found, value, group=group)
    return found
