"""What cannot be had while gradients are released, and why."""

from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .._engine.clip import Clip, measures, unit_limits
from .._engine.ranks import groups_of
from ..clipping.policies import ClipByGlobalNorm
from .base import FusedOptimizer

# Models that are trained so: a copy of one has the hook of its original, but is none of them.
models: "WeakSet[nn.Module]" = WeakSet()

SCALED = (
    "a GradScaler must see all gradients before the first is used, to skip the step if one is not finite; train in "
    "bfloat16, which needs none, or keep gradients"
)
SECOND_BACKWARD = (
    "a second backward() before optimizer.step(), after parameters may have been updated by the first. While gradients "
    "are released, call backward() once for each step(): without gradient accumulation, with losses added up, and with "
    "checkpoint(…, use_reentrant=False). After a backward() that has failed, call zero_grad() and step(). To keep "
    "gradients, remove() what release_gradients() returned"
)
_ADDED_UP_LATER = (
    "{} adds gradients up over ranks after they would have been released; use torch.distributed.fsdp.fully_shard, or "
    "keep gradients"
)
_DDP = _ADDED_UP_LATER.format("DistributedDataParallel")


def check_model(model: nn.Module, params: list[Tensor]) -> None:
    """Raise `ValueError` for a model that is not the optimizer's, or is wrapped in what adds gradients up later."""
    if set(params).isdisjoint(model.parameters()):
        raise ValueError("Invalid model: none of its parameters is the optimizer's")
    if any(isinstance(module, DistributedDataParallel) for module in model.modules()):
        raise ValueError(f"release_gradients: {_DDP}")
    if any(getattr(p, "_fsdp_flattened", False) for p in params):
        raise ValueError(f"release_gradients: {_ADDED_UP_LATER.format('FullyShardedDataParallel')}")


def check_forward(module: nn.Module, args: object) -> None:
    """Raise `RuntimeError` for what shows in a forward pass only, before there is any gradient: a hook of the model."""
    if torch.compiler.is_compiling() or module not in models or not torch.is_grad_enabled():
        return
    if getattr(DistributedDataParallel, "_active_ddp_module", None) is not None:
        raise RuntimeError(f"release_gradients: {_DDP}")
    for device in {p.device.type for p in module.parameters()}:
        if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16:
            raise RuntimeError(f"release_gradients: float16 autocast is trained with a GradScaler, but {SCALED}")


def check_groups(optimizer: FusedOptimizer, over_ranks: bool) -> None:
    """Raise `ValueError` for a group whose step needs gradients, or whole tensors, later."""
    for i, group in enumerate(optimizer.param_groups):
        if group["differentiable"]:
            raise ValueError(f"release_gradients: group {i} has differentiable=True, which keeps gradients")
        if over_ranks and optimizer.spec(group).layerwise:
            raise ValueError(
                f"release_gradients: {type(optimizer).__name__} measures whole tensors, of which each rank has a part, "
                "in step(); use another optimizer, or keep gradients"
            )


def check_clip(clip: Clip | None, over_ranks: bool) -> None:
    """Raise `ValueError` for a policy that needs to see all gradients before the first update."""
    why = ""
    if clip is None:
        return
    if clip.in_kernel() is None:
        why = "is applied to all gradients at once; use torch_gd.ClipByValue or ClipAdaptive"
    elif measures(clip):
        why = (
            "needs the norm of all gradients before the first is used; use torch_gd.ClipByValue or ClipAdaptive, or "
            'take the norm of the step before: release_gradients(…, norm="previous")'
        )
    elif over_ranks and unit_limits(clip) is not None:
        why = "measures units of which each rank has a part, in step(); use torch_gd.ClipByValue"
    if why:
        raise ValueError(f"release_gradients: {clip!r} {why}")


def by_previous_norm(clip: Clip | None, params: list[Tensor]) -> ClipByGlobalNorm:
    """Return a policy that can take the norm of the step before; raise `ValueError` for any other."""
    if not (isinstance(clip, ClipByGlobalNorm) and measures(clip)):
        raise ValueError(f'release_gradients: norm="previous" is for a ClipByGlobalNorm, but the policy is {clip!r}')
    if clip.skip_nonfinite:
        raise ValueError('release_gradients: norm="previous" cannot leave out a step; drop skip_nonfinite=True')
    if clip.groups or any(groups_of(params)) or len({p.device for p in params}) > 1:
        raise ValueError(
            'release_gradients: norm="previous" is of one process and device; use torch_gd.ClipByValue where '
            "parameters are on several"
        )
    return clip
