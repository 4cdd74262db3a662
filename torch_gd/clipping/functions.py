"""Gradient clipping by functions, called between `backward` and `step`: torch's, and adaptive clipping."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_value_ as torch_clip_grad_value_
from torch.nn.utils import clip_grads_with_norm_ as torch_clip_grads_with_norm_

from .._arguments import found
from .._engine.shards import has_dtensors, local_tensors, whole_on_every_rank
from .._engine.writable import Use, check
from .inputs import as_float, as_groups, as_tensors, foreach_for, with_gradients
from .norms import by_kind, clip_coefficient, scale_units_, total_norm
from .over_ranks import clamp_over_ranks_, norm_over_ranks, scale_over_ranks_, scale_units_over_ranks_
from .policies import ClipAdaptive


@torch.no_grad()
def get_total_norm(
    tensors: Tensor | Iterable[Tensor],
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
    groups: Iterable[Any] = (),
) -> Tensor:
    """Return the norm of all tensors together, as `torch.nn.utils.get_total_norm`.

    Tensors on a GPU take one pass of our kernels: float32 accumulation (float64 of float64 tensors) in an order that is
    always the same. The result is float32 also for half precision, which torch rounds to half precision. The norm of
    DTensors is that of the whole, of any placements and meshes, also beside plain tensors.

    Args:
        tensors: one or more, of any shapes.
        norm_type: order of the norm, above 0, or inf. Default: 2.
        error_if_nonfinite: raise if the norm is NaN or infinite, which waits for the GPU. Default: False.
        foreach: True or False takes torch's implementation; not of DTensors. Default: None, the fastest there is.
        groups: process groups whose ranks hold further tensors, see `torch_gd.distributed`. Default: none.

    Returns:
        The norm, 0-d, on the device of the first tensor; as torch's, a DTensor if all tensors are, of one mesh.

    Raises:
        RuntimeError: the norm is not finite and `error_if_nonfinite` is set, or a tensor cannot be measured, such as
            an integer or a sparse one; named.
        TypeError, ValueError: not tensors, or a `norm_type` that is no number.

    Example:
        >>> import torch, torch_gd
        >>> torch_gd.get_total_norm([torch.tensor([3.0]), torch.tensor([4.0])])
        tensor(5.)
    """
    tensors, norm_type = as_tensors(tensors), as_float("norm_type", norm_type)
    check(local_tensors(tensors), Use.MEASURED, "item {} of tensors".format)
    groups = as_groups(groups)
    if groups or has_dtensors(tensors):
        return norm_over_ranks(tensors, [], norm_type, error_if_nonfinite, groups)
    return total_norm(tensors, by_kind(tensors), norm_type, error_if_nonfinite, foreach)


@torch.no_grad()
def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
    groups: Iterable[Any] = (),
) -> Tensor:
    """Scale gradients so that their norm together is at most `max_norm`, as `torch.nn.utils.clip_grad_norm_`.

    Args:
        parameters: one or more; those without a gradient are left out.
        max_norm: the largest norm.
        norm_type: order of the norm, above 0, or inf. Default: 2.
        error_if_nonfinite: raise if the norm is NaN or infinite, which waits for the GPU. Default: False.
        foreach: True or False takes torch's implementation; not of DTensors. Default: None, the fastest there is.
        groups: process groups whose ranks hold further parameters, see `torch_gd.distributed`. Default: none.

    Returns:
        The norm before clipping, 0-d; as torch's, a DTensor if all gradients are, of one mesh.

    Raises:
        RuntimeError: the norm is not finite and `error_if_nonfinite` is set, or a gradient cannot be measured or
            written, such as an integer, a sparse or an expanded one; named, and nothing has been changed then. Or
            FullyShardedDataParallel has flattened the parameters, and no `groups` are given.
        TypeError, ValueError: an argument that is no number, or not tensors.

    Example:
        >>> import torch, torch_gd
        >>> p = torch.zeros(2, requires_grad=True)
        >>> p.grad = torch.tensor([3.0, 4.0])
        >>> torch_gd.clip_grad_norm_([p], max_norm=1.0)
        tensor(5.)
        >>> p.grad
        tensor([0.6000, 0.8000])
    """
    groups = as_groups(groups)
    every, params, grads, name_of = with_gradients(parameters, groups)
    max_norm, norm_type = as_float("max_norm", max_norm), as_float("norm_type", norm_type)
    check(local_tensors(grads), Use.MEASURED | Use.SCALED, name_of)
    if groups or has_dtensors(every):
        norm = norm_over_ranks(grads, every, norm_type, error_if_nonfinite, groups)
        scale_over_ranks_(grads, clip_coefficient(max_norm, local_tensors([norm])[0]))
        return norm
    kinds, others = sorted_grads = by_kind(grads)
    norm = total_norm(grads, sorted_grads, norm_type, error_if_nonfinite, foreach)
    complexes = [g for (_, dtype), group in kinds.items() if dtype.is_complex for g in group]
    foreach = foreach_for([*others, *complexes], foreach)
    if foreach is None:
        coefficient = clip_coefficient(max_norm, norm)
        for kind, group in kinds.items():
            # In the gradients' own dtype, to which torch rounds it anyway: then it is one launch on a GPU.
            torch._foreach_mul_(group, coefficient.to(*kind))
        left = set(map(id, others))
        params = [p for p in params if id(p.grad) in left] if others else []
    torch_clip_grads_with_norm_(params, max_norm, norm, foreach)
    return norm


@torch.no_grad()
def clip_grads_with_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, total_norm: Tensor, foreach: bool | None = None
) -> None:
    """Scale gradients by a norm that has been measured, as `torch.nn.utils.clip_grads_with_norm_`.

    Args:
        parameters: one or more; those without a gradient are left out.
        max_norm: the largest norm.
        total_norm: the norm of all gradients, as `get_total_norm` returns it.
        foreach: True or False takes torch's foreach or for-loop implementation. Default: None, torch's choice.

    Raises:
        RuntimeError: a gradient that cannot be written, named; nothing has been changed then.
        TypeError, ValueError: an argument that is no number, or not tensors.

    Example:
        >>> import torch, torch_gd
        >>> p = torch.zeros(2, requires_grad=True)
        >>> p.grad = torch.tensor([3.0, 4.0])
        >>> torch_gd.clip_grads_with_norm_([p], 1.0, torch_gd.get_total_norm([p.grad]))
        >>> p.grad
        tensor([0.6000, 0.8000])
    """
    _, params, grads, name_of = with_gradients(parameters)
    max_norm = as_float("max_norm", max_norm)
    if not isinstance(total_norm, Tensor):
        raise TypeError(f"Invalid total_norm: {found(total_norm)}; pass the tensor that get_total_norm returns")
    check(local_tensors(grads), Use.SCALED, name_of)
    if has_dtensors([*grads, total_norm]):
        scale_over_ranks_(grads, clip_coefficient(max_norm, whole_on_every_rank(total_norm)))
        return
    torch_clip_grads_with_norm_(params, max_norm, total_norm, foreach_for(grads, foreach))


@torch.no_grad()
def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None) -> None:
    """Clamp every element of the gradients to [-clip_value, clip_value], as `torch.nn.utils.clip_grad_value_`.

    Args:
        parameters: one or more; those without a gradient are left out.
        clip_value: the bound.
        foreach: True or False takes torch's foreach or for-loop implementation. Default: None, torch's choice.

    Raises:
        RuntimeError: a gradient that cannot be clamped, such as an integer, a sparse or an expanded one; named, and
            nothing has been changed then.
        TypeError, ValueError: an argument that is no number, or not tensors.

    Example:
        >>> import torch, torch_gd
        >>> p = torch.zeros(2, requires_grad=True)
        >>> p.grad = torch.tensor([3.0, -0.25])
        >>> torch_gd.clip_grad_value_([p], 0.5)
        >>> p.grad
        tensor([ 0.5000, -0.2500])
    """
    _, params, grads, name_of = with_gradients(parameters)
    clip_value = as_float("clip_value", clip_value)
    check(local_tensors(grads), Use.BY_ELEMENT, name_of)
    if has_dtensors(grads):
        clamp_over_ranks_(grads, clip_value, name_of)
    elif grads:  # torch's function fails without any
        torch_clip_grad_value_(params, clip_value, foreach_for(grads, foreach))


@torch.no_grad()
def clip_grad_adaptive_(parameters: Tensor | Iterable[Tensor], clipping: float = 0.01, eps: float = 1e-3) -> None:
    """Scale down each unit's gradient to a fraction of the unit itself: adaptive clipping (Brock et al. 2021).

    A unit is a row of a matrix, a filter of a convolution (all dimensions but the first), or a whole vector or scalar.

    Args:
        parameters: one or more; those without a gradient are left out.
        clipping: the fraction, 0 or more. Default: 0.01.
        eps: the least norm that a unit counts for, so that zeros can grow. Default: 1e-3.

    Raises:
        RuntimeError: a gradient that cannot be written, or differs from its parameter in shape or device; named, and
            nothing has been changed then. Or FullyShardedDataParallel has flattened the parameters.
        TypeError, ValueError: `clipping` or `eps` is no number, negative or infinite, or `parameters` are not tensors.

    Example:
        >>> import torch, torch_gd
        >>> p = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> p.grad = torch.tensor([0.6, 0.8])
        >>> torch_gd.clip_grad_adaptive_([p], clipping=0.1)
        >>> p.grad
        tensor([0.3000, 0.4000])
    """
    policy = ClipAdaptive(clipping, eps)  # checks the arguments
    every, params, grads, name_of = with_gradients(parameters, by_unit=True)
    if has_dtensors(every):
        scale_units_over_ranks_(every, params, grads, (policy.clipping, policy.eps), name_of)
        return
    scale_units_(params, grads, policy.clipping, policy.eps, name_of)
