"""Stochastic gradient descent, with momentum or Nesterov's."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from torch.optim.sgd import sgd

from . import checks as validate
from .._engine.backend import rules
from .._engine.batch import FusedTensors
from ..clipping.functions import ClipPolicy
from .base import FusedOptimizer, Group, State

LARGE, SMALL = 1 << 18, 32  # elements a tensor


class SGD(FusedOptimizer):
    r"""Stochastic gradient descent (Robbins & Monro 1951; momentum: Polyak 1964), as `torch.optim.SGD`.

    .. math:: b_t = \mu b_{t-1} + (1 - \tau)(g_t + \lambda \theta_{t-1}), \quad \theta_t = \theta_{t-1} - \gamma b_t

    with :math:`b_1 = g_1 + \lambda \theta_0`; with `nesterov`, :math:`g_t + \lambda \theta_{t-1} + \mu b_t` takes the
    place of :math:`b_t` in the update; without momentum, the bare gradient does.

    Args:
        params: parameters, (name, parameter) pairs, or dicts that define groups; of any shape and dense layout.
        lr: learning rate, a number or a one-element tensor. Default: 1e-3.
        momentum: :math:`\mu`. Default: 0.
        dampening: :math:`\tau`. Default: 0.
        weight_decay: L2 penalty :math:`\lambda`. Default: 0.
        nesterov: look ahead along the momentum. Default: False.
        maximize: ascend instead. Default: False.
        foreach: True or False takes torch's foreach or for-loop implementation. Default: None, the fastest there is.
        differentiable: let autograd see the step; torch's for-loop implementation. Default: False.
        fused: True insists on a fused implementation and takes part in `torch.amp.GradScaler`'s unscaling; False takes
            torch's. Default: None, the fastest there is.
        clip: a policy of `torch_gd.clip_grad` for gradients as the step reads them; not in torch. Default: None.
        l1: decoupled L1 penalty, a soft threshold of lr · l1 after each update; not in torch. Default: 0.

    Raises:
        ValueError: an argument out of range, or `nesterov` without momentum or with dampening.
        RuntimeError: `fused` together with `differentiable` or `foreach`, or for a parameter that none serves.

    Example:
        >>> optimizer = torch_gd.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> loss_fn(model(input), target).backward(); optimizer.step()
    """

    accepts_sparse = True
    has_torch_fused = True

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        clip: ClipPolicy | None = None,
        l1: float = 0.0,
    ) -> None:
        validate.learning_rate(lr)
        validate.not_negative(momentum=momentum, weight_decay=weight_decay)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        validate.one_implementation(foreach, fused, differentiable)
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults, clip, l1)

    def rule(self, group: Group) -> tuple[Any, tuple[Any, ...]]:
        if group["momentum"] == 0:
            return rules.SGD, ()
        return rules.MOMENTUM, (group["nesterov"],)

    def state_names(self, group: Group) -> tuple[str, ...]:
        return () if group["momentum"] == 0 else ("momentum_buffer",)

    def hyperparameters(self, group: Group) -> tuple[float | Tensor, ...]:
        if group["momentum"] == 0:
            return group["lr"], group["weight_decay"]
        return group["lr"], group["weight_decay"], group["momentum"], group["dampening"]

    def missing_state(self, group: Group, p: Tensor, g: Tensor) -> Tensor:
        dtype = g.dtype if group["weight_decay"] == 0 else torch.promote_types(p.dtype, g.dtype)
        return torch.zeros_like(p, dtype=dtype, memory_format=torch.preserve_format)

    def functional(
        self, group: Group, params: list[Tensor], grads: list[Tensor], states: list[State], flags: dict[str, Any]
    ) -> None:
        buffers: list[Tensor | None] = [state.get("momentum_buffer") for state in states]
        sgd(
            params,
            grads,
            buffers if group["momentum"] != 0 else [],
            has_sparse_grad=any(g.is_sparse for g in grads),
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
            **flags,
        )
        if group["momentum"] != 0:
            for state, buffer in zip(states, buffers):
                state["momentum_buffer"] = buffer

    def fused_update(self, group: Group, tensors: FusedTensors) -> bool:
        lr = float(group["lr"])
        if _one_add_is_faster(group, len(tensors.params), tensors.numel):
            if len(tensors.params) == 1:
                tensors.params[0].add_(tensors.grads[0], alpha=-lr)
            else:
                torch._foreach_add_(tensors.params, tensors.grads, alpha=-lr)
            return True
        torch._fused_sgd_(
            tensors.params,
            tensors.grads,
            *tensors.states or ([],),
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=lr,
            dampening=group["dampening"],
            nesterov=bool(group["nesterov"]),
            maximize=bool(group["maximize"]),
            is_first_step=False,
        )
        return False

    def torch_would_fuse(self, group: Group, p: Tensor) -> bool:
        # torch's fused CPU kernel leaves whole vectors of half-precision elements as they were (2.11 and 2.13).
        wrong = p.device.type == "cpu" and p.dtype in (torch.bfloat16, torch.float16)
        return not wrong and super().torch_would_fuse(group, p)

    def group_defaults(self) -> dict[str, Any]:
        return super().group_defaults() | {"nesterov": False, "fused": None}


def _one_add_is_faster(group: Group, count: int, numel: int) -> bool:
    """Whether torch's fused kernel loses to `add_` where that is all there is to a step.

    Over a single tensor, over large ones, and with several threads, which it starts for each tensor, over small ones.
    """
    bare = group["momentum"] == 0 and group["weight_decay"] == 0 and not group["maximize"]
    each = numel / count
    return bare and (count == 1 or each >= LARGE or (each >= SMALL and torch.get_num_threads() > 1))
