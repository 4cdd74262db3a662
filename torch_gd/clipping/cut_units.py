"""Adaptive clipping of units of which each rank holds a part: the norms of the whole units."""

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
import torch.distributed as dist
from torch import Tensor

from .._engine.clip import CutCoefficients, GradientBatch, InputsByDevice
from .._engine.layout import moved_to
from .._engine.ranks import all_reduce, split_by_groups
from .._engine.shards import local_tensors
from .norms import tensor_norms, unit_coefficient, unit_norms


class CutUnits:
    """The units that are cut, of all parameters of an optimizer.

    Args:
        params: the parameters, with or without a gradient: one that has none here may have one on another rank.
        clipping: the largest norm of a unit's gradient, as a fraction of the unit's own.
        eps: the least norm that a unit counts for.
    """

    def __init__(self, params: Sequence[Tensor], clipping: float, eps: float) -> None:
        self.clipping, self.eps = clipping, eps
        self._by_groups = {
            groups: sorted((params[i] for i in places), key=lambda p: p.dim() > 1)  # vectors' norms take one pass
            for groups, places in split_by_groups(params, cut_units_only=True).items()
        }

    def __bool__(self) -> bool:
        return bool(self._by_groups)

    def measure(
        self, batches: Sequence[GradientBatch], inputs: InputsByDevice, total_norm: Tensor | None
    ) -> InputsByDevice:
        """Return the inputs with the coefficients of these units, for gradients that have been unscaled."""
        grads = {id(p): g for batch in batches for p, g in zip(batch.holders, batch.grads)}
        grad_scale = next((one.grad_scale for one in inputs.values()), None)
        values, firsts = self.coefficients(grads, grad_scale)
        return {
            device: one._replace(cut_units=CutCoefficients(moved_to(values, device), firsts))
            for device, one in inputs.items()
        }

    def coefficients(self, grads: Mapping[int, Tensor], grad_scale: Tensor | None = None) -> CutCoefficients:
        """Return the coefficients of all these units; every rank that holds a part of them must ask for them.

        Args:
            grads: by the id of a DTensor, the shard of its gradient.
            grad_scale: what gradients are to be divided by first.
        """
        values: list[Tensor] = []
        firsts: dict[int, int] = {}
        for groups, owners in self._by_groups.items():
            shards = local_tensors(owners)
            theirs = [grads[id(p)] if id(p) in grads else torch.zeros_like(shard) for p, shard in zip(owners, shards)]
            squares = torch.stack([_norms(shards), _norms(theirs)]).square()
            if grad_scale is not None:
                squares[1] /= grad_scale.to(squares.device).double().square()
            all_reduce(squares, dist.ReduceOp.SUM, groups)
            values.append(unit_coefficient(squares[0].sqrt(), squares[1].sqrt(), self.clipping, self.eps))
            counts = [len(shard) if shard.dim() > 1 else 1 for shard in shards]
            firsts |= dict(zip(map(id, shards), accumulate(counts, initial=sum(map(len, values[:-1])))))
        together = torch.cat([one.to(values[0].device) for one in values]) if values else torch.empty(0)
        return CutCoefficients(together, firsts)


def _norms(tensors: list[Tensor]) -> Tensor:
    """Return the norms of all units here of tensors of which the vectors come first; 1-d, float64."""
    count = sum(tensor.dim() <= 1 for tensor in tensors)
    parts = [tensor_norms(tensors[:count])] if count else []
    parts += [unit_norms(tensor, torch.float64).reshape(-1) for tensor in tensors[count:]]
    return torch.cat([part.to(tensors[0].device, torch.float64) for part in parts])
