"""LAMB and LARS, which torch does not have: a for-loop in double, from their papers, and by others' definitions."""

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


class Definition(Optimizer, ABC):
    """What another package's source says a step is, tensor by tensor, in the dtype of the parameters.

    Args:
        params: tensors or groups.
        defaults: the options that its source names, with their defaults.
        options: others in their place.
    """

    def __init__(self, params: Any, defaults: dict[str, Any], **options: Any) -> None:
        super().__init__(params, defaults | options)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]  # no closure here
        self.steps = getattr(self, "steps", 0) + 1
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        total = torch.stack([g.norm() for g in grads]).norm()
        for group in self.param_groups:
            for p in group["params"]:
                self.update(group, p, p.grad.clone(), self.state[p], total)

    @abstractmethod
    def update(self, group: Group, p: Tensor, g: Tensor, state: dict[str, Tensor], total: Tensor) -> None:
        """Update a parameter and its states; `total` is the norm of all gradients."""

    def moments(self, group: Group, p: Tensor, g: Tensor, state: dict[str, Tensor], weight: float) -> Tensor:
        """Advance Adam's moments, the first by the gradient times a weight; return Adam's step."""
        (beta1, beta2), t = group["betas"], self.steps
        m, v = (state.setdefault(name, torch.zeros_like(p)) for name in ("m", "v"))
        m.mul_(beta1).add_(weight * g)
        v.mul_(beta2).add_((1 - beta2) * g * g)
        return (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + group["eps"])


class ApexFusedLAMB(Definition):
    """NVIDIA's apex, `csrc/multi_tensor_lamb.cu`, both modes of decay."""

    def __init__(self, params: Any, **options: Any) -> None:
        defaults = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01, "grad_averaging": True}
        defaults |= {"max_grad_norm": 1.0, "use_nvlamb": False, "adam_w_mode": True}
        super().__init__(params, defaults, **options)

    def update(self, group: Group, p: Tensor, g: Tensor, state: dict[str, Tensor], total: Tensor) -> None:
        decay = group["weight_decay"]
        g = g / (total / group["max_grad_norm"] if total > group["max_grad_norm"] else 1.0)
        if not group["adam_w_mode"]:
            g = g + decay * p
        update = self.moments(group, p, g, state, 1 - group["betas"][0] if group["grad_averaging"] else 1.0)
        if group["adam_w_mode"]:
            update = update + decay * p
        rate = group["lr"]
        if (group["use_nvlamb"] or decay != 0) and p.norm() != 0 and update.norm() != 0:
            rate = rate * (p.norm() / update.norm())
        p.sub_(rate * update)


class OptaxLamb(Definition):
    """DeepMind's optax, `lamb`: scale_by_adam, add_decayed_weights, scale_by_trust_ratio, scale_by_learning_rate."""

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.0}, **options)

    def update(self, group: Group, p: Tensor, g: Tensor, state: dict[str, Tensor], total: Tensor) -> None:
        update = self.moments(group, p, g, state, 1 - group["betas"][0])
        update = update + group["weight_decay"] * p
        zero = p.norm() == 0 or update.norm() == 0
        p.add_(-group["lr"] * (update if zero else update * (p.norm() / update.norm())))


class ApexLARC(Definition):
    """NVIDIA's apex, `apex/parallel/LARC.py`, around torch's SGD with momentum."""

    def __init__(self, params: Any, **options: Any) -> None:
        defaults = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 5e-4, "trust_coefficient": 0.02, "eps": 1e-8}
        super().__init__(params, defaults, **options)

    def update(self, group: Group, p: Tensor, g: Tensor, state: dict[str, Tensor], total: Tensor) -> None:
        if p.norm() != 0 and g.norm() != 0:
            rate = p.norm() / (g.norm() + p.norm() * group["weight_decay"] + group["eps"]) * group["trust_coefficient"]
            g = (g + group["weight_decay"] * p) * min(rate / group["lr"], 1)
        buffer = state.setdefault("buffer", torch.zeros_like(p))
        buffer.mul_(group["momentum"]).add_(g)
        p.sub_(group["lr"] * buffer)
