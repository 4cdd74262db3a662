"""RMSprop."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from torch.optim.rmsprop import rmsprop

from . import checks as validate
from .._engine.backend import rules
from ..clipping.functions import ClipPolicy
from .._engine.layout import on_cpu
from .base import FusedOptimizer, Group, State

FEW = 4  # tensors
SMALL = 1 << 14  # elements a tensor


class RMSprop(FusedOptimizer):
    r"""RMSprop (Hinton 2012; centered: Graves 2013), as `torch.optim.RMSprop`.

    .. math:: v_t = \alpha v_{t-1} + (1 - \alpha) g_t^2, \quad
              \theta_t = \theta_{t-1} - \gamma \frac{g_t}{\sqrt{v_t} + \epsilon}

    with `momentum`, a buffer :math:`b_t = \mu b_{t-1} + g_t / (\sqrt{v_t} + \epsilon)` takes the fraction's place; with
    `centered`, :math:`v_t - \bar g_t^2` takes that of :math:`v_t`, where :math:`\bar g_t` averages the gradient.

    Args:
        params: parameters, (name, parameter) pairs, or dicts that define groups; of any shape and dense layout.
        lr: learning rate, a number or a one-element tensor. Default: 1e-2.
        alpha: smoothing constant :math:`\alpha`. Default: 0.99.
        eps: :math:`\epsilon`. Default: 1e-8.
        weight_decay: L2 penalty, added to the gradient. Default: 0.
        momentum: :math:`\mu`. Default: 0.
        centered: divide by an estimate of the standard deviation. Default: False.
        capturable: keep counters on the GPU, so that a CUDA graph can hold the step. Default: False.
        foreach: True or False takes torch's foreach or for-loop implementation. Default: None, the fastest there is.
        maximize: ascend instead. Default: False.
        differentiable: let autograd see the step; torch's for-loop implementation. Default: False.
        clip: a policy of `torch_gd.clip_grad` for gradients as the step reads them; not in torch. Default: None.
        l1: decoupled L1 penalty, a soft threshold of lr · l1 after each update; not in torch. Default: 0.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> optimizer = torch_gd.RMSprop(model.parameters(), lr=0.01)
        >>> loss_fn(model(input), target).backward(); optimizer.step()
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        clip: ClipPolicy | None = None,
        l1: float = 0.0,
    ) -> None:
        validate.learning_rate(lr)
        validate.not_negative(eps=eps, momentum=momentum, weight_decay=weight_decay, alpha=alpha)
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "alpha": alpha,
            "eps": eps,
            "centered": centered,
            "weight_decay": weight_decay,
            "capturable": capturable,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults, clip, l1)

    def rule(self, group: Group) -> tuple[Any, tuple[Any, ...]]:
        return rules.RMSPROP, (group["centered"], group["momentum"] > 0)

    def state_names(self, group: Group) -> tuple[str, ...]:
        centered = ("grad_avg",) if group["centered"] else ()
        return "square_avg", *centered, *(("momentum_buffer",) if group["momentum"] > 0 else ())

    def hyperparameters(self, group: Group) -> tuple[float | Tensor, ...]:
        return group["lr"], group["alpha"], group["eps"], group["weight_decay"], group["momentum"]

    def new_state(self, group: Group, p: Tensor) -> State:
        names = sorted(
            self.state_names(group), key=["square_avg", "momentum_buffer", "grad_avg"].index
        )  # torch's order
        zeros = {name: torch.zeros_like(p, memory_format=torch.preserve_format) for name in names}
        return {"step": self.step_counter(group, p), **zeros}

    def functional(
        self, group: Group, params: list[Tensor], grads: list[Tensor], states: list[State], flags: dict[str, Any]
    ) -> None:
        rmsprop(
            params,
            grads,
            [state["square_avg"] for state in states],
            [state["grad_avg"] for state in states] if group["centered"] else [],
            [state["momentum_buffer"] for state in states] if group["momentum"] > 0 else [],
            [state["step"] for state in states],
            foreach=flags["foreach"],
            maximize=group["maximize"],
            differentiable=group["differentiable"],
            capturable=group["capturable"],
            has_complex=any(p.is_complex() for p in params),
            lr=group["lr"],
            alpha=group["alpha"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            centered=group["centered"],
        )

    def foreach_choice(self, group: Group, params: list[Tensor]) -> bool | None:
        choice: bool | None = group["foreach"]
        if choice is not None or group["differentiable"] or group["capturable"]:
            return choice
        # torch's default on the CPU is its for-loop, which takes twice as long as foreach over 300 small tensors, and
        # less over few or large ones.
        worth_it = len(params) >= FEW and sum(p.numel() for p in params) < SMALL * len(params)
        return worth_it if on_cpu(params) else None

    def needs_one_dtype(self, group: Group) -> bool:
        return bool(group["centered"])

    def group_defaults(self) -> dict[str, Any]:
        return super().group_defaults() | {"momentum": 0, "centered": False, "capturable": False}
