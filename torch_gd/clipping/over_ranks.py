"""The functions' work on gradients that are spread over ranks: each rank measures and changes its own shards."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .._engine.ranks import ProcessGroups, Ranks, groups_of
from .._engine.shards import has_partial_sums, is_dtensor, local_tensors, placed_alike, replicated, without_partial_sums
from .._engine.writable import Use, check
from .cut_units import CutUnits
from .norms import by_kind, raise_nonfinite, scale_units_, total_norm


def norm_over_ranks(
    tensors: list[Tensor], params: list[Tensor], norm_type: float, error_if_nonfinite: bool, groups: ProcessGroups
) -> Tensor:
    """Return the norm of tensors of which ranks hold parts or some; all ranks must ask for it.

    Args:
        tensors: what this rank has.
        params: all parameters, if the tensors are their gradients: both decide which process groups are asked.
        norm_type: order of the norm.
        error_if_nonfinite: whether to raise if the norm is NaN or infinite.
        groups: further process groups, whose ranks hold further tensors.
    """
    if norm_type <= 0:
        raise ValueError(f"Invalid norm_type: {norm_type}; over several ranks it must be above 0, or inf")
    added_up = without_partial_sums(tensors)
    kinds: dict[ProcessGroups, list[Tensor]] = {}
    over = groups_of(added_up)
    for groups_here, shard in zip(over, local_tensors(added_up)):
        if shard.numel():  # torch has no infinity norm of an empty tensor
            kinds.setdefault(groups_here, []).append(shard)
    norms = {
        spread_over: total_norm(some, by_kind(some), norm_type, False, None) for spread_over, some in kinds.items()
    }
    home = next((shard.device for shard in local_tensors([*added_up[:1], *params[:1]])), torch.device("cpu"))
    total = Ranks([*groups_of(params), *over], groups).norm(norms, norm_type, home)
    if error_if_nonfinite and not total.isfinite():
        raise_nonfinite(norm_type)
    if any(tensor.dtype != torch.float64 for tensor in [*tensors, *params]):
        total = total.float()
    whole: Tensor = replicated(total, [*tensors, *params])
    return whole


def scale_over_ranks_(grads: list[Tensor], coefficient: Tensor) -> None:
    """Multiply gradients in place, of DTensors this rank's shards."""
    kinds, others = by_kind(local_tensors(grads))
    for (device, dtype), group in kinds.items():
        if dtype.is_complex:  # torch's foreach cannot write where the conjugate bit is set
            others += group
        else:
            torch._foreach_mul_(group, coefficient.to(device, dtype))
    for g in others:
        g.mul_(coefficient.to(g.device))
    _mark_changed(grads)


def clamp_over_ranks_(grads: list[Tensor], clip_value: float, name_of: Callable[[int], str]) -> None:
    """Clamp every element of gradients in place."""
    for i, g in enumerate(grads):
        if has_partial_sums(g):
            raise RuntimeError(
                f"{name_of(i)}, of shape {tuple(g.shape)}, is a sum of which each rank has a part, and cannot be "
                "clamped in place; redistribute() it first, or give the optimizer clip=torch_gd.ClipByValue"
            )
    for g in local_tensors(grads):
        g.clamp_(-clip_value, clip_value)
    _mark_changed(grads)


def scale_units_over_ranks_(
    every: Sequence[Tensor],
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    limits: tuple[float, float],
    name_of: Callable[[int], str],
) -> None:
    """Scale gradients down in place, unit by unit, also units of which each rank holds a part.

    Args:
        every: all parameters.
        params: those that have gradients.
        grads: the gradients.
        limits: `clipping` and `eps`, as of adaptive clipping.
        name_of: returns the name of a gradient from its place.
    """
    for i, (p, g) in enumerate(zip(params, grads)):
        if not placed_alike(p, g):
            raise RuntimeError(
                f"{name_of(i)}, of shape {tuple(g.shape)}, is not spread over the ranks as its parameter is; "
                "redistribute() it first, or give the optimizer clip=torch_gd.ClipAdaptive"
            )
    shards, theirs = local_tensors(params), local_tensors(grads)
    check(theirs, Use.BY_ELEMENT, name_of)
    cut = CutUnits(every, *limits).coefficients({id(p): g for p, g in zip(params, theirs)})
    coefficients = list(map(cut.of, shards))
    whole = [i for i, coefficient in enumerate(coefficients) if coefficient is None]
    scale_units_([shards[i] for i in whole], [theirs[i] for i in whole], *limits, lambda i: name_of(whole[i]))
    for g, coefficient in zip(theirs, coefficients):
        if coefficient is not None:
            g.mul_(coefficient)
    _mark_changed(grads)


def _mark_changed(grads: Sequence[Tensor]) -> None:
    # Changing a shard does not advance its owner's version counter.
    torch.autograd.graph.increment_version([g for g in grads if is_dtensor(g)])
