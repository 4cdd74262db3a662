"""The optimizers that torch has no counterpart of, written from their papers: a for-loop, in double."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

import torch_gd

Group = dict[str, Any]


class Reference(Optimizer, ABC):
    """One step after the other, in double; parameters and states are rounded when they are stored.

    Arguments and defaults are those of our class of the same name.
    """

    def __init__(self, params: Any, **options: Any) -> None:
        like = getattr(torch_gd, type(self).__name__)([torch.zeros(1)], **options)
        super().__init__(params, dict(like.defaults))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    g = p.grad.double()
                    p.copy_(self.updated(group, p.double(), -g if group["maximize"] else g, self.state[p], p))
        return loss

    @abstractmethod
    def updated(self, group: Group, p: Tensor, g: Tensor, state: dict[str, Tensor], like: Tensor) -> Tensor:
        """Return the new parameter, and change the states; `like` is the parameter as it is stored."""


def ratio_or_one(ratio: Tensor, p_norm: Tensor, x_norm: Tensor, group: Group) -> Tensor:
    """Return the ratio where both norms are above zero, it is finite, and the group is adapted; else 1."""
    adapts = group["always_adapt"] or group["weight_decay"] != 0
    return ratio if adapts and p_norm > 0 and x_norm > 0 and ratio.isfinite() else torch.ones_like(ratio)


class LAMB(Reference):
    """You et al. 2020, algorithm 2, with the options of timm's and apex's."""

    def updated(self, group: Group, p: Tensor, g: Tensor, state: dict[str, Tensor], like: Tensor) -> Tensor:
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(like), torch.zeros_like(like)
        lr, weight_decay, (beta1, beta2) = group["lr"], group["weight_decay"], group["betas"]
        state["step"] += 1
        step = state["step"].item()
        if not group["adam_w_mode"]:
            g = g + weight_decay * p
        m = beta1 * state["exp_avg"].double() + (1 - beta1 if group["grad_averaging"] else 1) * g
        v = beta2 * state["exp_avg_sq"].double() + (1 - beta2) * g * g
        state["exp_avg"].copy_(m)
        state["exp_avg_sq"].copy_(v)
        if group["bias_correction"]:
            m, v = m / (1 - beta1**step), v / (1 - beta2**step)
        u = m / (v.sqrt() + group["eps"])
        if group["decoupled_weight_decay"]:
            p = p * (1 - lr * weight_decay)
        elif group["adam_w_mode"]:
            u = u + weight_decay * p
        p_norm, u_norm = p.norm(), u.norm()
        ratio = ratio_or_one(p_norm.clamp(*group["phi"]) / u_norm, p_norm, u_norm, group).clamp(max=group["max_trust"])
        return p - lr * ratio * u


class LARS(Reference):
    """You, Gitman & Ginsburg 2017, algorithm 1, with the options of timm's."""

    def updated(self, group: Group, p: Tensor, g: Tensor, state: dict[str, Tensor], like: Tensor) -> Tensor:
        lr, weight_decay, momentum = group["lr"], group["weight_decay"], group["momentum"]
        p_norm, g_norm = p.norm(), g.norm()
        ratio = group["trust_coeff"] * p_norm / (g_norm + weight_decay * p_norm + group["eps"])
        ratio = ratio_or_one(ratio, p_norm, g_norm, group)
        if group["trust_clip"] and (group["always_adapt"] or weight_decay != 0):
            ratio = (ratio / lr).clamp(max=1)
        u = ratio * (g + weight_decay * p)
        if group["lr_in_momentum"]:
            u, lr = lr * u, 1
        if momentum != 0:
            first = "momentum_buffer" not in state
            buffer = u if first else momentum * state["momentum_buffer"].double() + (1 - group["dampening"]) * u
            state.setdefault("momentum_buffer", torch.empty_like(like)).copy_(buffer)
            u = u + momentum * buffer if group["nesterov"] else buffer
        return p - lr * u
