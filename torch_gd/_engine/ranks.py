"""Numbers of a whole model from those of its ranks: which process groups a sum goes over, and in which order.

All ranks of a group must ask for the same sums in the same order, or they would wait for ever. What is asked therefore
depends on an optimizer's parameters only, not on which of them have a gradient or whose plan is still good.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from math import isinf
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from .shards import placed

ProcessGroups: TypeAlias = tuple[Any, ...]  # of torch.distributed.ProcessGroup


def groups_of(tensors: Sequence[Tensor], cut_units_only: bool = False) -> list[ProcessGroups]:
    """Return the process groups over whose ranks the elements of each DTensor are spread; none for plain tensors.

    Args:
        tensors: any tensors.
        cut_units_only: leave out groups whose ranks hold whole units, which are rows of the whole tensor, or a vector.
    """
    known: dict[Any, ProcessGroups] = {None: ()}  # asking a mesh takes long, and few tensors differ
    found: list[ProcessGroups] = []
    for tensor, place in zip(tensors, placed(tensors)):
        by_rows = cut_units_only and tensor.dim() > 1
        key = None if place is None else (id(place[0]), place[1], by_rows)
        groups = known.get(key)
        if groups is None and place is not None:
            mesh, placements = place
            cut = [
                not (one.is_replicate() or one.is_partial() or (by_rows and one.dim == 0)) and mesh.size(i) > 1
                for i, one in enumerate(placements)
            ]
            groups = known[key] = tuple(mesh.get_group(i) for i, is_cut in enumerate(cut) if is_cut)
        found.append(groups or ())
    return found


def split_by_groups(tensors: Sequence[Tensor], cut_units_only: bool = False) -> dict[ProcessGroups, list[int]]:
    """Return the places of the DTensors that ranks share, by the process groups of these; as `groups_of`."""
    split: dict[ProcessGroups, list[int]] = {}
    for i, groups in enumerate(groups_of(tensors, cut_units_only)):
        if groups:
            split.setdefault(groups, []).append(i)
    return split


class Ranks:
    """The process groups over which an optimizer's parameters are spread.

    Args:
        over: the groups that each parameter is spread over, as `groups_of` returns them.
        extra: further process groups, whose ranks hold further parameters.

    Attributes:
        sets: each different set of process groups that parameters are spread over; () for plain tensors.

    Raises:
        ValueError: an extra group has two ranks in common with another group: their parts would count twice.
    """

    def __init__(self, over: Iterable[ProcessGroups], extra: ProcessGroups = ()) -> None:
        self.sets: list[ProcessGroups] = list(dict.fromkeys(over))
        self.extra = extra
        for i, group in enumerate(extra):
            for other in (*dict.fromkeys(chain(*self.sets)), *extra[:i]):
                common = set(dist.get_process_group_ranks(group)) & set(dist.get_process_group_ranks(other))
                if len(common) > 1:
                    raise ValueError(
                        f"Invalid groups: ranks {sorted(common)} of process group {group.group_name!r} are together in "
                        f"group {other.group_name!r} too, over which is summed already; leave out the groups that "
                        "DTensors are spread over, and name no two groups with the same ranks"
                    )

    def __bool__(self) -> bool:
        return bool(any(self.sets) or self.extra)

    def norm(self, norms: Mapping[ProcessGroups, Tensor], norm_type: float, device: torch.device) -> Tensor:
        """Return the norm of the whole model.

        Args:
            norms: by the process groups that they are spread over, the norm of what this rank has: 0-d.
            norm_type: order of the norm.
            device: where the result shall be.

        Returns:
            The norm, 0-d, float64: the same bits on all ranks. NaN if any rank has a NaN.
        """
        absent = torch.zeros((), dtype=torch.float64, device=device)
        held = torch.stack([norms[one].to(device, torch.float64) if one in norms else absent for one in self.sets])
        if () in self.sets:  # what is not finite in plain tensors travels as well, for other ranks to skip the step
            held = held + 0 * held[self.sets.index(())]
        op, parts = dist.ReduceOp.SUM, held.pow(norm_type)[:, None]
        if isinf(norm_type):  # a maximum may lose a NaN, which therefore travels beside it
            finite = held.nan_to_num(0.0, posinf=torch.inf)
            op, parts = dist.ReduceOp.MAX, torch.stack([finite, held.isnan().to(held.dtype)], dim=1)
        for part, groups in zip(parts, self.sets):
            all_reduce(part, op, groups)
        whole = parts.amax(0) if isinf(norm_type) else parts.sum(0)
        all_reduce(whole, op, self.extra)
        if isinf(norm_type):
            return whole[0].masked_fill(whole[1] != 0, torch.nan)
        return whole[0].pow(1 / norm_type)

    def sum(self, parts: Tensor) -> Tensor:
        """Return the sum of numbers over all ranks, where all parameters are spread over the same; shape (1,)."""
        (groups,) = self.sets
        whole = parts.sum(0, keepdim=True)
        all_reduce(whole, dist.ReduceOp.SUM, (*groups, *self.extra))
        return whole


def all_reduce(values: Tensor, op: Any, groups: ProcessGroups) -> None:
    """Combine a contiguous tensor over the ranks of each group, in place."""
    for group in groups:
        devices = [one.split(":")[0] for one in dist.get_backend_config(group).split(",")]
        if values.device.type in devices:
            dist.all_reduce(values, op, group)
        else:  # as of parameters that wait on the CPU for their step, while ranks talk between GPUs
            there = values.to(devices[0])
            dist.all_reduce(there, op, group)
            values.copy_(there)


def why_not_measured(p: Tensor, groups: ProcessGroups, what: str = "") -> str:
    """Return why a parameter cannot be measured, to follow its name; empty if it can.

    Args:
        p: the parameter.
        groups: the process groups that the user has named.
        what: what is to be measured of it, such as "rows to clip". Default: its part of the norm of the whole model.
    """
    if not getattr(p, "_fsdp_flattened", False):
        return ""
    if what:
        return f"was flattened by FullyShardedDataParallel, and has no {what} any more; use fully_shard (FSDP2)"
    if not groups:
        return (
            "was flattened by FullyShardedDataParallel, and this rank holds a part of it; name the process group of "
            "the model's ranks, such as groups=(model.process_group,)"
        )
    return ""
