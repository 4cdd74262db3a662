"""Optimizers that torch does not have, by their formulas: one parameter after the other, in torch's operators.

`test_timm.py` compares them with timm's, where timm is installed.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Formula(torch.optim.Optimizer):
    """An optimizer that calls `update` for each parameter that has a gradient; `foreach` and so on change nothing."""

    def __init__(self, params: Any, defaults: dict[str, Any], **more: Any) -> None:
        super().__init__(params, {**defaults, "maximize": False, "foreach": None, "differentiable": False, **more})

    def update(self, group: dict[str, Any], p: Tensor, g: Tensor, state: dict[str, Any]) -> None:
        raise NotImplementedError

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]  # no closure here
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        self.update(group, p, -p.grad if group["maximize"] else p.grad, self.state[p])


class Lion(Formula):
    """Lion (Chen et al. 2023)."""

    def __init__(
        self, params: Any, lr: Any = 1e-4, betas: Any = (0.9, 0.99), weight_decay: float = 0.0, **more: Any
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay}, **more)

    def update(self, group: dict[str, Any], p: Tensor, g: Tensor, state: dict[str, Any]) -> None:
        (beta1, beta2), lr = group["betas"], group["lr"]
        exp_avg = state.setdefault("exp_avg", torch.zeros_like(p))
        g = g.to(exp_avg.dtype)
        if p.is_complex():
            p, g, exp_avg = map(torch.view_as_real, (p, g, exp_avg))
        p.mul_(1 - lr * group["weight_decay"])
        p.add_(exp_avg.lerp(g, 1 - beta1).sign_(), alpha=-lr)
        exp_avg.lerp_(g, 1 - beta2)


class SGDW(Formula):
    """SGDW (Loshchilov & Hutter 2019), whose decay is multiplied by the learning rate."""

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        **more: Any,
    ) -> None:
        own = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, {**own, "nesterov": nesterov}, **more, fused=None)

    def update(self, group: dict[str, Any], p: Tensor, g: Tensor, state: dict[str, Any]) -> None:
        momentum = group["momentum"]
        p.mul_(1 - group["lr"] * group["weight_decay"])
        if momentum != 0:
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = g.clone()
            else:
                state["momentum_buffer"].mul_(momentum).add_(g, alpha=1 - group["dampening"])
            buffer = state["momentum_buffer"]
            g = g.add(buffer, alpha=momentum) if group["nesterov"] else buffer
        p.add_(g, alpha=-group["lr"])
