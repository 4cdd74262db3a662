"""Which implementation updates a tensor, and why: the choice is data, which `torch_gd.explain` shows."""

from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._foreach_utils import _get_fused_kernels_supported_devices

from ..triton_kernels import runtime
from . import backend
from .layout import is_plain, overlaps_itself
from .parts import Part
from .shards import is_dtensor, local_tensors, why_not_together
from .spec import Algorithm, Group, UpdateSpec


class Kind(Enum):
    """An implementation of a step."""

    KERNELS = "our kernels"
    TORCH_FUSED = "torch fused"
    TORCH = "torch"
    DECODED = "torch, decoded"  # on float32 copies of what is stored otherwise


class Route(NamedTuple):
    """The implementation that updates some tensors.

    Args:
        kind: which one.
        reason: why, in words.
    """

    kind: Kind
    reason: str


def choose_route(group: Group, spec: UpdateSpec, part: Part) -> Route:
    """Return the route of a part, all of whose tensors are alike."""
    p, g = part.params[0], part.grads[0]
    if group["differentiable"]:
        return Route(Kind.TORCH, "differentiable=True was given")
    if group["foreach"] is not None:
        return Route(Kind.TORCH, f"foreach={group['foreach']} was given")
    if group.get("fused") is False:
        return Route(Kind.TORCH, "fused=False was given")
    if part.in_turn:
        return Route(Kind.TORCH, "listed more than once, or may share memory with another: one after the other")
    if runtime.active.watched():
        return Route(Kind.TORCH, "a dispatch mode watches torch's operators, as fake tensors and make_fx do")
    if g.is_sparse:
        return Route(Kind.TORCH, "sparse gradient")
    for tensor in (p, g):
        if not is_plain(tensor):
            subclass = tensor.layout == torch.strided
            return Route(Kind.TORCH, f"tensor subclass {type(tensor).__name__}" if subclass else str(tensor.layout))
    if backend.serves(p) and backend.serves(g):
        where = "interpreted on the CPU" if p.device.type == "cpu" else "on a GPU"
        return Route(Kind.KERNELS, where)
    if p.dtype == g.dtype and torch_fuses(group, spec, p):
        return Route(Kind.TORCH_FUSED, "fused=True was given" if group.get("fused") else "on the CPU")
    return Route(Kind.TORCH, why_not_fused(group, spec, p, g))


def torch_fuses(group: Group, spec: UpdateSpec, p: Tensor) -> bool:
    """Return whether torch's fused kernels are to serve a parameter that ours do not.

    They are the fastest that torch has on the CPU, where it does not choose them by itself. `capturable` is left to
    torch's default, which has its own checks for it there.
    """
    on_cpu = p.device.type == "cpu"
    right = not on_cpu or spec.fused_cpu_dtypes is None or p.dtype in spec.fused_cpu_dtypes
    if group.get("fused"):
        return right
    if spec.fused_cpu is None or not on_cpu or not right or not p.is_floating_point():
        return False
    if not spec.torch_fuses and any(isinstance(value, Tensor) for value in spec.values(group)):
        return False
    return not group.get("capturable") and not isinstance(group.get("weight_decay"), Tensor)


def why_not_fused(group: Group, spec: UpdateSpec, p: Tensor, g: Tensor) -> str:
    """Return why neither our kernels nor torch's fused ones serve a parameter."""
    if not p.is_floating_point():
        return f"{p.dtype} parameters"
    if p.dtype != g.dtype:
        return f"{g.dtype} gradients of {p.dtype} parameters"
    if p.device.type == "cuda":
        return runtime.active.why_not_served(p.device) if runtime.HAS_TRITON else "Triton is not installed"
    if p.device.type != "cpu":
        return f"no kernels for {p.device.type}"
    if spec.fused_cpu is None:
        return "no fused CPU kernel can do it"
    if spec.fused_cpu_dtypes is not None and p.dtype not in spec.fused_cpu_dtypes:
        return f"torch's fused CPU kernel is wrong for {p.dtype}"
    return "capturable=True was given" if group.get("capturable") else "a hyperparameter that is a tensor"


def can_fuse(p: Tensor) -> bool:
    """Return whether some fused implementation serves a parameter."""
    return backend.serves(p) or (p.is_floating_point() and p.device.type in _get_fused_kernels_supported_devices())


def cannot_fuse(p: Tensor) -> str:
    """Return why `fused=True` cannot be had for a parameter, to follow the parameter's name."""
    devices = _get_fused_kernels_supported_devices()
    return (
        f"is {p.dtype} on {p.device}, but `fused=True` requires all the params to be floating point Tensors "
        f"of supported devices: {devices}; leave `fused` out, or move the parameter"
    )


def index_in(group: Group, p: Tensor) -> int:
    """Return the index in a group of a parameter, or of the one whose shard it is."""
    params = group["params"]
    return next(j for j, (q, local) in enumerate(zip(params, local_tensors(params))) if p is q or p is local)


def place_of(group: Group, i: int, p: Tensor) -> str:
    """Return how an error message names the place of a parameter of group `i`."""
    j = index_in(group, p)
    name = f" ({group['param_names'][j]!r})" if "param_names" in group else ""
    return f"parameter {j} of group {i}{name}"


def name_of(group: Group, i: int, p: Tensor) -> str:
    """Return how an error message names a parameter of group `i`, with its shape."""
    whole = group["params"][index_in(group, p)]
    shard = "" if p is whole else f" here of shape {tuple(p.shape)},"
    return f"{place_of(group, i, p)}, of shape {tuple(whole.shape)},{shard}"


def check_part(algorithm: Algorithm, group: Group, spec: UpdateSpec, part: Part, kind: Kind) -> None:
    """Raise `RuntimeError` for a gradient that this optimizer cannot use on its route, before anything is updated."""
    p, g = part.params[0], part.grads[0]  # the others are like them in all but their shapes

    def refuse(p: Tensor, why: str) -> RuntimeError:
        return RuntimeError(f"{algorithm.name}: {name_of(group, part.group, p)} {why}")

    if not (p.is_floating_point() or p.is_complex()):
        raise refuse(p, f"is {p.dtype}; only floating-point and complex parameters can be optimized")
    if is_dtensor(p) or is_dtensor(g):
        for q, h in zip(part.params, part.grads):
            if why := why_not_together(q, h):
                raise refuse(q, why)
    for q, h in zip(part.params, part.grads):
        if q.shape != h.shape:
            why = f"has a gradient of shape {tuple(h.shape)}; call zero_grad() after resizing a parameter"
            raise refuse(q, why)
    if p.device != g.device:
        raise refuse(p, f"is on {p.device} but its gradient on {g.device}; move the model before backward()")
    if g.is_sparse:
        if spec.refuses_sparse:
            why = f"{name_of(group, part.group, p)} has a sparse gradient"
            raise RuntimeError(f"{spec.refuses_sparse}: {algorithm.name}: {why}")
        if group.get("fused"):
            raise refuse(p, "has a sparse gradient; `fused=True` does not support sparse gradients")
    elif p.layout == torch.strided:
        for q in part.params:
            if not q.is_contiguous() and overlaps_itself(q):
                raise refuse(q, "shares memory among its own elements, as after expand(); clone() it first")
    if group.get("fused") and not can_fuse(p):
        raise refuse(p, cannot_fuse(p))
    by_torch = kind is not Kind.KERNELS
    if by_torch and algorithm.torch_step is None:
        hint = "set TRITON_INTERPRET=1 to try it on the CPU, or " if runtime.HAS_TRITON and p.is_cpu else ""
        why = f"is {p.dtype} on {p.device}, which the kernels do not serve here"
        raise refuse(p, f"{why}; {hint}give {algorithm.name} a torch_step()")
