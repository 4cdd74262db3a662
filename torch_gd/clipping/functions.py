"""Gradient clipping by functions, called between `backward` and `step`: torch's, and adaptive clipping."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_

from .norms import adaptive_coefficient, by_kind, clip_coefficient, total_norm
from .policies import ClipAdaptive


@torch.no_grad()
def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scale gradients so that their norm together is at most `max_norm`, as `torch.nn.utils.clip_grad_norm_`.

    Args:
        parameters: one or more; those without a gradient are left out.
        max_norm: the largest norm.
        norm_type: order of the norm, above 0, or inf. Default: 2.
        error_if_nonfinite: raise if the norm is NaN or infinite, which waits for the GPU. Default: False.
        foreach: True or False takes torch's implementation. Default: None, the fastest there is.

    Returns:
        The norm before clipping, 0-d.

    Raises:
        RuntimeError: the norm is not finite and `error_if_nonfinite` is set.

    Example:
        >>> import torch, torch_gd
        >>> p = torch.zeros(2, requires_grad=True)
        >>> p.grad = torch.tensor([3.0, 4.0])
        >>> torch_gd.clip_grad_norm_([p], max_norm=1.0)
        tensor(5.)
        >>> p.grad
        tensor([0.6000, 0.8000])
    """
    parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    grads = [p.grad for p in parameters if p.grad is not None]
    kinds, others = sorted_grads = by_kind(grads)
    norm = total_norm(grads, sorted_grads, float(norm_type), error_if_nonfinite, foreach)
    if foreach is None:
        coefficient = clip_coefficient(max_norm, norm)
        for kind, group in kinds.items():
            # In the gradients' own dtype, to which torch rounds it anyway: then it is one launch on a GPU.
            torch._foreach_mul_(group, coefficient.to(*kind))
        left = set(map(id, others))
        parameters = [p for p in parameters if id(p.grad) in left] if others else []
        if any(g.is_neg() for g in others):
            foreach = False  # torch's foreach cannot write to a tensor with the negative bit
    clip_grads_with_norm_(parameters, max_norm, norm, foreach)
    return norm


@torch.no_grad()
def clip_grad_adaptive_(parameters: Tensor | Iterable[Tensor], clipping: float = 0.01, eps: float = 1e-3) -> None:
    """Scale down each unit's gradient to a fraction of the unit itself: adaptive clipping (Brock et al. 2021).

    A unit is a row of a matrix, a filter of a convolution (all dimensions but the first), or a whole vector or scalar.

    Args:
        parameters: one or more; those without a gradient are left out.
        clipping: the fraction, 0 or more. Default: 0.01.
        eps: the least norm that a unit counts for, so that zeros can grow. Default: 1e-3.

    Raises:
        ValueError: `clipping` or `eps` is negative.

    Example:
        >>> import torch, torch_gd
        >>> p = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> p.grad = torch.tensor([0.6, 0.8])
        >>> torch_gd.clip_grad_adaptive_([p], clipping=0.1)
        >>> p.grad
        tensor([0.3000, 0.4000])
    """
    ClipAdaptive(clipping, eps)  # checks the arguments
    for p in [parameters] if isinstance(parameters, Tensor) else parameters:
        if p.grad is not None:
            p.grad.mul_(adaptive_coefficient(p, p.grad, clipping, eps))
