"""Norms of many tensors at once: the one place where this package computes them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .._engine import backend
from .._engine.layout import is_dense, is_literal, moved_to


@torch.no_grad()
def tensor_norms(tensors: Sequence[Tensor], norm_type: float = 2.0) -> Tensor:
    r"""The norm of each tensor, in one pass for each mix of device and dtype, and without waiting for a GPU.

    .. math:: \|x\|_p = (\sum_i |x_i|^p)^{1/p}

    Half precision is accumulated in float32.

    Args:
        tensors: of any shapes, devices and floating-point or complex dtypes; a sparse one counts its values.
        norm_type: p, above 0, or `inf` for the largest absolute value. Default: 2.

    Returns:
        A 1-D tensor with a norm for each tensor, in their order, on the first one's device: float64 if any tensor has
        that precision, else float32. Empty for no tensors.

    Raises:
        ValueError: a `norm_type` that is not above 0.

    Example:
        >>> grads = [p.grad for p in model.parameters() if p.grad is not None]
        >>> total = torch_gd.norms.tensor_norms(grads).norm()
    """
    norm_type = float(norm_type)
    if not norm_type > 0:
        raise ValueError(f"Invalid norm_type: {norm_type}; it must be above 0, or inf")
    if len(tensors) == 0:
        return torch.zeros(0)
    values = [(t.coalesce().values() if t.layout == torch.sparse_coo else t).detach() for t in tensors]
    precise = any(t.dtype in (torch.float64, torch.complex128) for t in values)
    norms: list[Tensor | None] = [None] * len(values)
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, t in enumerate(values):
        if t.numel() == 0:  # which has no largest element
            norms[i] = torch.zeros((), device=t.device)
        else:
            groups.setdefault((t.device, t.dtype), []).append(i)
    for (_, dtype), members in groups.items():
        group = [values[i] for i in members]
        if all(type(t) is Tensor and backend.serves(t) and is_dense(t) and is_literal(t) for t in group):
            for i, norm in zip(members, backend.measure.tensor_norms(group, norm_type).unbind()):
                norms[i] = norm
            continue
        wide = torch.float32 if dtype in (torch.float16, torch.bfloat16) else None
        for i, norm in zip(members, torch._foreach_norm(group, norm_type, dtype=wide)):
            norms[i] = norm
    device, dtype = values[0].device, torch.float64 if precise else torch.float32
    return torch.stack([moved_to(norm, device, dtype) for norm in norms if norm is not None])
