"""Norms of whole parameters, where each rank holds only a shard: every rank must call these functions."""

import torch
import torch.distributed as dist
from torch import Tensor

from .._engine.layout import moved_to
from .._engine.ranks import all_reduce, split_by_groups
from .._engine.shards import Move, is_dtensor, local_tensors, place, shard_or_empty, why_not_together


def local_grads(params: list[Tensor]) -> list[Tensor | None]:
    """Return the gradient of each parameter, as this rank's shard; one placed otherwise is redistributed first.

    A gradient that no step will accept counts as missing.
    """
    grads: list[Tensor | None] = []
    moves: list[Move] = []
    for p in params:
        g = p.grad
        if g is not None and why_not_together(p, g):
            g = None
        elif g is not None and is_dtensor(p):
            (local,) = local_tensors([g])
            if (shard := shard_or_empty(p, g)) is not local:
                moves.append(Move(p, g, shard))
            g = shard
        grads.append(g)
    place(moves)
    return grads


def add_up(params: list[Tensor], norms: list[Tensor], used: dict[int, Tensor]) -> list[Tensor]:
    """Return norms of whole parameters, from norms of this rank's shards, in one all-reduce for each set of groups.

    Args:
        params: the parameters; those that are not spread keep their norms.
        norms: vectors with one norm for each parameter.
        used: by the index of a parameter, which rows of its shard have a gradient. Changed in place: afterwards it says
            so of every row of the whole parameter.
    """
    spread = split_by_groups(params)
    if not spread:
        return norms
    single = [list(vector.unbind()) for vector in norms]
    for groups, members in spread.items():
        device = torch.device(params[members[0]].device_mesh.device_type)  # type: ignore[attr-defined]  # a DTensor's
        rows = [i for i in members if i in used]
        shards = [moved_to(of_each[i], device, torch.float64).reshape(1) ** 2 for of_each in single for i in members]
        shards += [moved_to(_among_all_rows(params[i], used[i]), device, torch.float64) for i in rows]
        sums = torch.cat(shards)
        all_reduce(sums, dist.ReduceOp.SUM, groups)
        parts = iter(torch.split(sums, [len(part) for part in shards]))
        for of_each in single:
            for i in members:
                of_each[i] = moved_to(next(parts)[0].sqrt(), of_each[i].device, of_each[i].dtype)
        for i in rows:
            used[i] = next(parts) > 0
    return [torch.stack(of_each) for of_each in single]


def _among_all_rows(p: Tensor, used: Tensor) -> Tensor:
    """Return for all rows of a parameter whether they are used, False for those of other ranks."""
    from torch.distributed.tensor import Replicate, distribute_tensor  # who has a DTensor has imported it

    mesh, placements = p.device_mesh, p.placements  # type: ignore[attr-defined]  # a DTensor's
    # Numbered rows, cut as the parameter is, say which ones are here. Cuts through rows do not matter.
    cuts = [cut if getattr(cut, "dim", None) == 0 else Replicate() for cut in placements]
    numbers = torch.arange(len(p), device=used.device)
    here = distribute_tensor(numbers, mesh, cuts, src_data_rank=None).to_local()
    return torch.zeros(len(p), dtype=torch.bool, device=used.device).index_copy_(0, here.to(used.device), used)
