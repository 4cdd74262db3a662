"""Gradient clipping: torch's functions, and the policies that fold them into an optimizer's step."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, compress
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_
from torch.nn.utils import get_total_norm as _torch_total_norm

from .._engine import backend
from .._engine.layout import DEVICE_OF, DTYPE_OF, are_literal, are_plain, is_dense, is_literal, is_plain, on_cpu

__all__ = [
    "ClipAdaptive",
    "ClipByGlobalNorm",
    "ClipByValue",
    "ClipPolicy",
    "clip_grad_adaptive_",
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "get_total_norm",
]

Kind: TypeAlias = tuple[torch.device, torch.dtype]


# --- Functions ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def get_total_norm(
    tensors: Tensor | Iterable[Tensor],
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """The norm of all tensors together, as `torch.nn.utils.get_total_norm`.

    Tensors on a GPU take one pass of ours: float32 accumulation (float64 of float64 tensors), in an order that is
    always the same, and a float32 result also for half precision, which torch rounds to that.

    Args:
        tensors: one or more, of any shapes.
        norm_type: order of the norm, above 0, or inf. Default: 2.
        error_if_nonfinite: raise if the norm is NaN or infinite; this waits for the GPU. Default: False.
        foreach: True or False takes torch's implementation. Default: None, the fastest there is.

    Returns:
        The norm, 0-d, on the device of the first tensor.

    Raises:
        RuntimeError: the norm is not finite and `error_if_nonfinite` is set.

    Example:
        >>> norm = torch_gd.get_total_norm([p.grad for p in model.parameters()])
        >>> norm.item()
    """
    tensors = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    return _total_norm(tensors, *_plain_kinds(tensors), float(norm_type), error_if_nonfinite, foreach)


def _total_norm(
    tensors: list[Tensor],
    kinds: dict[Kind, list[Tensor]],
    rest: list[Tensor],
    norm_type: float,
    error_if_nonfinite: bool,
    foreach: bool | None,
) -> Tensor:
    asked = foreach is None and norm_type > 0
    ours = [kind for kind, group in kinds.items() if asked and backend.serves(group[0])]
    if not ours:
        if foreach is None and tensors and not rest and on_cpu(tensors):
            foreach = True  # the faster one there too, where torch does not choose it
        return _torch_total_norm(tensors, norm_type, error_if_nonfinite, foreach)
    norms = [backend.measure.tensor_norms(_straight(kinds[kind]), norm_type) for kind in ours]
    rest = [*rest, *chain.from_iterable(group for kind, group in kinds.items() if kind not in ours)]
    if rest:
        norms.append(_torch_total_norm(rest, norm_type).reshape(1))
    dtype = torch.float64 if all(norm.dtype == torch.float64 for norm in norms) else torch.float32
    together = torch.cat([norm.to(tensors[0].device, torch.float64) for norm in norms])
    total: Tensor = torch.linalg.vector_norm(together, norm_type).to(dtype)
    if error_if_nonfinite and not total.isfinite():
        raise RuntimeError(
            f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, so it cannot be "
            "clipped. To disable this error and scale the gradients by the non-finite norm anyway, set "
            "`error_if_nonfinite=False`"
        )
    return total


def _plain_kinds(tensors: list[Tensor]) -> tuple[dict[Kind, list[Tensor]], list[Tensor]]:
    """What our kernels and torch's foreach can take, by device and dtype, and the rest."""
    plain, rest = tensors, []
    if not (are_plain(tensors) and are_literal(tensors)):
        fit = [is_plain(t) and is_literal(t) for t in tensors]
        plain, rest = list(compress(tensors, fit)), [t for t, fits in zip(tensors, fit) if not fits]
    devices, dtypes = list(map(DEVICE_OF, plain)), list(map(DTYPE_OF, plain))
    kinds: dict[Kind, list[Tensor]] = {}
    if plain and devices.count(devices[0]) == dtypes.count(dtypes[0]) == len(plain):  # as good as always
        kinds[devices[0], dtypes[0]] = plain
    else:
        for kind, tensor in zip(zip(devices, dtypes), plain):
            kinds.setdefault(kind, []).append(tensor)
    return kinds, rest


def _straight(tensors: list[Tensor]) -> list[Tensor]:
    if all(map(Tensor.is_contiguous, tensors)):
        return tensors
    return [tensor if is_dense(tensor) else tensor.contiguous() for tensor in tensors]


@torch.no_grad()
def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scales gradients so that their norm together is at most `max_norm`, as `torch.nn.utils.clip_grad_norm_`.

    Args:
        parameters: one or more; those without a gradient are left out.
        max_norm: the largest norm.
        norm_type: order of the norm, above 0, or inf. Default: 2.
        error_if_nonfinite: raise if the norm is NaN or infinite; this waits for the GPU. Default: False.
        foreach: True or False takes torch's implementation. Default: None, the fastest there is.

    Returns:
        The norm before clipping, 0-d.

    Raises:
        RuntimeError: the norm is not finite and `error_if_nonfinite` is set.

    Example:
        >>> torch_gd.clip_grad_norm_(model.parameters(), 1.0)
        >>> optimizer.step()
    """
    parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    grads = [p.grad for p in parameters if p.grad is not None]
    kinds, rest = _plain_kinds(grads)
    total_norm = _total_norm(grads, kinds, rest, float(norm_type), error_if_nonfinite, foreach)
    if foreach is None:
        coefficient = clip_coefficient(max_norm, total_norm)
        for kind, group in kinds.items():
            # In their own dtype, to which torch rounds it anyway: one launch on a GPU, and not one for each tensor.
            torch._foreach_mul_(group, coefficient.to(*kind))
        left = set(map(id, rest))
        parameters = [p for p in parameters if id(p.grad) in left] if rest else []
        if any(g.is_neg() for g in rest):
            foreach = False  # torch's foreach cannot write to what is negated by a note only
    clip_grads_with_norm_(parameters, max_norm, total_norm, foreach)
    return total_norm


def clip_coefficient(max_norm: float, total_norm: Tensor) -> Tensor:
    """What gradients are multiplied by, so that their norm is at most `max_norm`; at most 1."""
    return torch.clamp(max_norm / (total_norm + 1e-6), max=1.0)


@torch.no_grad()
def clip_grad_adaptive_(parameters: Tensor | Iterable[Tensor], clipping: float = 0.01, eps: float = 1e-3) -> None:
    """Adaptive gradient clipping (Brock et al. 2021): no unit's gradient above a fraction of the unit itself.

    A unit is a row of a matrix, a filter of a convolution (all dimensions but the first), or a whole vector or scalar.

    Args:
        parameters: one or more; those without a gradient are left out.
        clipping: the fraction. Default: 0.01.
        eps: the least norm that a unit counts for, so that zeros can grow. Default: 1e-3.

    Raises:
        ValueError: `clipping` or `eps` is negative.

    Example:
        >>> torch_gd.clip_grad_adaptive_(model.parameters(), clipping=0.01)
        >>> optimizer.step()
    """
    ClipAdaptive(clipping, eps)
    for p in [parameters] if isinstance(parameters, Tensor) else parameters:
        if p.grad is not None:
            p.grad.mul_(_adaptive_coefficient(p, p.grad, clipping, eps))


def _adaptive_coefficient(p: Tensor, g: Tensor, clipping: float, eps: float, grad_scale: float | Tensor = 1) -> Tensor:
    wide = torch.float64 if p.dtype == torch.float64 else torch.float32
    max_norm = _unit_norm(p, wide).clamp_(min=eps).mul_(clipping)
    grad_norm = _unit_norm(g, wide).div_(grad_scale)
    return torch.where(grad_norm < max_norm, 1, max_norm / grad_norm.clamp(min=1e-6))


def _unit_norm(x: Tensor, dtype: torch.dtype) -> Tensor:
    dim = tuple(range(1, x.dim())) or None
    norm: Tensor = torch.linalg.vector_norm(x, dim=dim, keepdim=dim is not None, dtype=dtype)
    return norm


# --- Policies -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClipPolicy:
    """What an optimizer does to gradients as it reads them: `torch_gd.AdamW(params, clip=ClipByGlobalNorm(1.0))`."""

    def in_place(self, params: Sequence[Tensor], grads: Sequence[Tensor], coefficient: Tensor | None) -> None:
        """The same, on torch's path: to the gradients themselves, as torch's clipping functions do."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Plain data, which `torch.load(weights_only=True)` takes."""
        return {"name": type(self).__name__, **asdict(self)}

    @staticmethod
    def from_state_dict(state: dict[str, Any]) -> "ClipPolicy":
        """The policy that `state_dict` described."""
        kinds = {kind.__name__: kind for kind in (ClipByGlobalNorm, ClipByValue, ClipAdaptive)}
        if state.get("name") not in kinds:
            raise ValueError(f"unknown clip policy {state.get('name')!r} in state_dict; known: {', '.join(kinds)}")
        return kinds[state["name"]](**{key: value for key, value in state.items() if key != "name"})


@dataclass(frozen=True)
class ClipByGlobalNorm(ClipPolicy):
    """Scales all gradients so that their norm together is at most `max_norm` (Pascanu et al. 2013).

    Equal to `clip_grad_norm_` before the step; the norm is of the gradients of all groups, after unscaling.

    Args:
        max_norm: the largest norm, above 0; inf only measures.
        norm_type: order of the norm, above 0, or inf. Default: 2.
        skip_nonfinite: leave out a step whose norm is NaN or infinite; on the GPU, without the host knowing.
            Default: False, as in torch.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> optimizer = torch_gd.AdamW(model.parameters(), clip=torch_gd.ClipByGlobalNorm(1.0))
        >>> optimizer.step(); optimizer.last_norm
    """

    max_norm: float
    norm_type: float = 2.0
    skip_nonfinite: bool = False

    def __post_init__(self) -> None:
        if not self.max_norm > 0:
            raise ValueError(f"Invalid max_norm: {self.max_norm}; it must be above 0")
        if not self.norm_type > 0:
            raise ValueError(f"Invalid norm_type: {self.norm_type}; it must be above 0, or inf")

    def in_place(self, params: Sequence[Tensor], grads: Sequence[Tensor], coefficient: Tensor | None) -> None:
        if coefficient is None:
            raise RuntimeError("the norm is to be measured before gradients are clipped by it")
        if coefficient.device.type == "cpu" and coefficient == 1:  # reading it costs nothing there
            return
        torch._foreach_mul_(list(grads), coefficient)


@dataclass(frozen=True)
class ClipByValue(ClipPolicy):
    """Clamps every element of a gradient to [-clip_value, clip_value]; equal to `clip_grad_value_` before the step.

    Args:
        clip_value: the bound, 0 or more.

    Raises:
        ValueError: `clip_value` is negative.

    Example:
        >>> optimizer = torch_gd.SGD(model.parameters(), lr=0.1, clip=torch_gd.ClipByValue(0.5))
        >>> optimizer.step()
    """

    clip_value: float

    def __post_init__(self) -> None:
        if not self.clip_value >= 0:
            raise ValueError(f"Invalid clip_value: {self.clip_value}; it must be 0 or more")

    def in_place(self, params: Sequence[Tensor], grads: Sequence[Tensor], coefficient: Tensor | None) -> None:
        for g in grads:
            g.clamp_(-self.clip_value, self.clip_value)


@dataclass(frozen=True)
class ClipAdaptive(ClipPolicy):
    """Adaptive gradient clipping (Brock et al. 2021); equal to `clip_grad_adaptive_` before the step.

    Args:
        clipping: the largest norm of a unit's gradient, as a fraction of the unit's own, 0 or more. Default: 0.01.
        eps: the least norm that a unit counts for. Default: 1e-3.

    Raises:
        ValueError: an argument is negative.

    Example:
        >>> optimizer = torch_gd.SGD(model.parameters(), lr=0.1, clip=torch_gd.ClipAdaptive(0.02))
        >>> optimizer.step()
    """

    clipping: float = 0.01
    eps: float = 1e-3

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value >= 0:
                raise ValueError(f"Invalid {name}: {value}; it must be 0 or more")

    def in_place(self, params: Sequence[Tensor], grads: Sequence[Tensor], coefficient: Tensor | None) -> None:
        for p, g in zip(params, grads):
            g.mul_(_adaptive_coefficient(p, g, self.clipping, self.eps))
