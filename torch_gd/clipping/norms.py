"""Norms of many tensors at once, in the package's one place for them: of each tensor, of all together, and of units."""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, compress
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm as torch_total_norm

from .._arguments import number
from .._engine import backend
from .._engine.layout import (
    DEVICE_OF,
    DTYPE_OF,
    all_have_real_storage,
    all_on_cpu,
    all_plain,
    has_real_storage,
    is_dense,
    is_plain,
    moved_to,
)
from .._engine.writable import Use, check
from .inputs import as_tensors

DeviceAndDtype: TypeAlias = tuple[torch.device, torch.dtype]


class ByKind(NamedTuple):
    """Tensors, sorted by what can be computed in one pass.

    Args:
        plain: strided tensors of no subclass whose memory holds their values, by device and dtype.
        others: all other tensors.
    """

    plain: dict[DeviceAndDtype, list[Tensor]]
    others: list[Tensor]


def by_kind(tensors: list[Tensor]) -> ByKind:
    """Return tensors sorted by device and dtype, in their order."""
    plain, others = tensors, []
    if not (all_plain(tensors) and all_have_real_storage(tensors)):
        fits = [is_plain(t) and has_real_storage(t) for t in tensors]
        plain, others = list(compress(tensors, fits)), [t for t, fit in zip(tensors, fits) if not fit]
    devices, dtypes = list(map(DEVICE_OF, plain)), list(map(DTYPE_OF, plain))
    kinds: dict[DeviceAndDtype, list[Tensor]] = {}
    if plain and devices.count(devices[0]) == dtypes.count(dtypes[0]) == len(plain):  # almost always
        kinds[devices[0], dtypes[0]] = plain
    else:
        for kind, tensor in zip(zip(devices, dtypes), plain):
            kinds.setdefault(kind, []).append(tensor)
    return ByKind(kinds, others)


@torch.no_grad()
def tensor_norms(tensors: Sequence[Tensor], norm_type: float = 2.0) -> Tensor:
    r"""Return the norm of each tensor, in one pass for each mix of device and dtype, without waiting for a GPU.

    .. math:: \|x\|_p = (\sum_i |x_i|^p)^{1/p}

    Half precision is accumulated in float32.

    Args:
        tensors: of any shapes, devices and floating-point or complex dtypes; a sparse tensor counts its values.
        norm_type: p, above 0, or `inf` for the largest absolute value. Default: 2.

    Returns:
        A 1-D tensor with the norm of each tensor, in their order, on the first one's device: float64 if any tensor has
        that precision, else float32. Empty for no tensors.

    Raises:
        TypeError: not tensors, or a `norm_type` that is no number.
        ValueError: a `norm_type` that is not above 0.

    Example:
        >>> import torch, torch_gd
        >>> torch_gd.clipping.tensor_norms([torch.tensor([3.0, 4.0]), torch.ones(2, 2)])
        tensor([5., 2.])
    """
    tensors = as_tensors(tensors)
    norm_type = number("norm_type", norm_type, above_zero=True, finite=False)
    if not tensors:
        return torch.zeros(0)
    values = [(t.coalesce().values() if t.layout == torch.sparse_coo else t).detach() for t in tensors]
    found = {id(t): torch.zeros((), device=t.device) for t in values if t.numel() == 0}  # without a largest element
    kinds, others = by_kind([t for t in values if t.numel() > 0])
    for (_, dtype), group in [*kinds.items(), *(((t.device, t.dtype), [t]) for t in others)]:
        if backend.serves(group[0]) and all(type(t) is Tensor and is_dense(t) and has_real_storage(t) for t in group):
            norms: Iterable[Tensor] = backend.measure.tensor_norms(group, norm_type).unbind()
        else:
            wide = torch.float32 if dtype in (torch.float16, torch.bfloat16) else None
            norms = torch._foreach_norm(group, norm_type, dtype=wide)
        found.update(zip(map(id, group), norms))
    precise = any(t.dtype in (torch.float64, torch.complex128) for t in values)
    device, dtype = values[0].device, torch.float64 if precise else torch.float32
    return torch.stack([moved_to(found[id(t)], device, dtype) for t in values])


def total_norm(
    tensors: list[Tensor], sorted_tensors: ByKind, norm_type: float, error_if_nonfinite: bool, foreach: bool | None
) -> Tensor:
    """Return the norm of all tensors together, once these have been checked and sorted; see `get_total_norm`."""
    kinds, others = sorted_tensors
    allowed = foreach is None and norm_type > 0
    ours = [kind for kind, group in kinds.items() if allowed and backend.serves(group[0])]
    if not ours:
        if foreach is None and tensors and not others and all_on_cpu(tensors):
            foreach = True  # torch does not choose its faster implementation there
        return torch_total_norm(tensors, norm_type, error_if_nonfinite, foreach)
    norms = [backend.measure.tensor_norms(_walkable(kinds[kind]), norm_type) for kind in ours]
    others = [*others, *chain.from_iterable(group for kind, group in kinds.items() if kind not in ours)]
    if others:
        norms.append(torch_total_norm(others, norm_type).reshape(1))
    dtype = torch.float64 if all(norm.dtype == torch.float64 for norm in norms) else torch.float32
    together = torch.cat([norm.to(tensors[0].device, torch.float64) for norm in norms])
    total: Tensor = torch.linalg.vector_norm(together, norm_type).to(dtype)
    if error_if_nonfinite and not total.isfinite():
        raise_nonfinite(norm_type)
    return total


def raise_nonfinite(norm_type: float) -> None:
    """Raise torch's error for a norm that is not finite."""
    raise RuntimeError(
        f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, so it cannot be "
        "clipped. To disable this error and scale the gradients by the non-finite norm anyway, set "
        "`error_if_nonfinite=False`"
    )


def _walkable(tensors: list[Tensor]) -> list[Tensor]:
    if all(map(Tensor.is_contiguous, tensors)):
        return tensors
    return [tensor if is_dense(tensor) else tensor.contiguous() for tensor in tensors]


def clip_coefficient(max_norm: float, norm: Tensor) -> Tensor:
    """Return what gradients of this norm are multiplied by, so that it becomes `max_norm` at most; 1 at most."""
    return torch.clamp(max_norm / (norm + 1e-6), max=1.0)


def unit_norms(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the norm of each unit of a tensor, in a shape that broadcasts with it.

    A unit is a row of a matrix, a filter of a convolution (all dimensions but the first), or a whole vector or scalar.
    """
    dim = tuple(range(1, x.dim())) or None
    norm: Tensor = torch.linalg.vector_norm(x, dim=dim, keepdim=dim is not None, dtype=dtype)
    return norm


def adaptive_coefficient(p: Tensor, g: Tensor, clipping: float, eps: float) -> Tensor:
    """Return what adaptive clipping multiplies each unit of a gradient by, in a shape that broadcasts with it."""
    wide = torch.float64 if p.dtype == torch.float64 else torch.float32
    return unit_coefficient(unit_norms(p, wide), unit_norms(g, wide), clipping, eps)


def unit_coefficient(norm: Tensor, grad_norm: Tensor, clipping: float, eps: float) -> Tensor:
    """Return what adaptive clipping multiplies gradients by, from the norms of units and of their gradients."""
    max_norm = norm.clamp(min=eps).mul_(clipping)
    return torch.where(grad_norm < max_norm, 1, max_norm / grad_norm.clamp(min=1e-6))


def scale_units_(
    params: Sequence[Tensor], grads: Sequence[Tensor], clipping: float, eps: float, name_of: Callable[[int], str]
) -> None:
    """Scale gradients down in place, unit by unit; nothing is written before every coefficient is there."""
    check(grads, Use.BY_ELEMENT, name_of)
    for i, (p, g) in enumerate(zip(params, grads)):
        if p.shape != g.shape or p.device != g.device:
            raise RuntimeError(
                f"{name_of(i)}, of shape {tuple(g.shape)} on {g.device}, does not fit the parameter, of shape "
                f"{tuple(p.shape)} on {p.device}; move the model before backward(), and call zero_grad() after "
                "resizing a parameter"
            )
    coefficients = [adaptive_coefficient(p, g, clipping, eps) for p, g in zip(params, grads)]
    for g, coefficient in zip(grads, coefficients):
        g.mul_(coefficient)
