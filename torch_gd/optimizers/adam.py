"""Adam, and what AdamW shares with it."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.optimizer import ParamsT

from . import checks as validate
from .._engine.backend import rules
from .._engine.batch import FusedTensors
from ..clipping.functions import ClipPolicy
from .base import FusedOptimizer, Group, State


class Adam(FusedOptimizer):
    r"""Adam (Kingma & Ba 2015; AMSGrad: Reddi, Kale & Kumar 2018), as `torch.optim.Adam`.

    .. math:: m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \quad
              \theta_t = \theta_{t-1}
              - \gamma \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    where :math:`g_t` includes :math:`\lambda \theta_{t-1}`; with `amsgrad`, the largest :math:`v` so far stands for
    :math:`v_t`; with `decoupled_weight_decay`, this is `AdamW`.

    Args:
        params: parameters, (name, parameter) pairs, or dicts that define groups; of any shape and dense layout.
        lr: learning rate :math:`\gamma`, a number or a one-element tensor. Default: 1e-3.
        betas: both numbers or both one-element tensors. Default: (0.9, 0.999).
        eps: :math:`\epsilon`. Default: 1e-8.
        weight_decay: :math:`\lambda`. Default: 0.
        amsgrad: divide by the largest second moment so far. Default: False.
        foreach: True or False takes torch's foreach or for-loop implementation. Default: None, the fastest there is.
        maximize: ascend instead. Default: False.
        capturable: keep counters on the GPU, so that a CUDA graph can hold the step. Default: False.
        differentiable: let autograd see the step; torch's for-loop implementation. Default: False.
        fused: True insists on a fused implementation and takes part in `torch.amp.GradScaler`'s unscaling; False takes
            torch's. Default: None, the fastest there is.
        decoupled_weight_decay: decay the parameter, not the gradient. Default: False.
        clip: a policy of `torch_gd.clip_grad` for gradients as the step reads them; not in torch. Default: None.
        l1: decoupled L1 penalty, a soft threshold of lr · l1 after each update; not in torch. Default: 0.

    Raises:
        ValueError: an argument out of range, or a tensor where torch takes none.
        RuntimeError: `fused` together with `differentiable` or `foreach`, or for a parameter that none serves.

    Example:
        >>> optimizer = torch_gd.Adam(model.parameters(), lr=1e-3)
        >>> loss_fn(model(input), target).backward(); optimizer.step()
    """

    has_torch_fused = True

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        clip: ClipPolicy | None = None,
        l1: float = 0.0,
    ) -> None:
        validate.learning_rate(lr, foreach, capturable)
        validate.not_negative(eps=eps, weight_decay=weight_decay)
        validate.one_implementation(foreach, fused, differentiable)
        defaults = {
            "lr": lr,
            "betas": validate.betas(betas, foreach, capturable),
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults, clip, l1)

    def rule(self, group: Group) -> tuple[Any, tuple[Any, ...]]:
        return (rules.ADAMW if group["decoupled_weight_decay"] else rules.ADAM), (group["amsgrad"],)

    def state_names(self, group: Group) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq")

    def hyperparameters(self, group: Group) -> tuple[float | Tensor, ...]:
        return group["lr"], *group["betas"], group["eps"], group["weight_decay"]

    def new_state(self, group: Group, p: Tensor) -> State:
        zeros = {name: torch.zeros_like(p, memory_format=torch.preserve_format) for name in self.state_names(group)}
        return {"step": self.step_counter(group, p), **zeros}

    def functional(
        self, group: Group, params: list[Tensor], grads: list[Tensor], states: list[State], flags: dict[str, Any]
    ) -> None:
        adam(
            params,
            grads,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [state["max_exp_avg_sq"] for state in states] if group["amsgrad"] else [],
            [state["step"] for state in states],
            capturable=group["capturable"],
            differentiable=group["differentiable"],
            has_complex=any(p.is_complex() for p in params),
            decoupled_weight_decay=group["decoupled_weight_decay"],
            amsgrad=group["amsgrad"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
            **flags,
        )

    def fused_update(self, group: Group, tensors: FusedTensors) -> bool:
        kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
        kernel(
            tensors.params,
            tensors.grads,
            tensors.states[0],
            tensors.states[1],
            tensors.states[2] if group["amsgrad"] else [],
            tensors.steps,
            amsgrad=bool(group["amsgrad"]),
            lr=float(group["lr"]),
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=bool(group["maximize"]),
        )
        return False

    def needs_one_dtype(self, group: Group) -> bool:
        return True

    def group_defaults(self) -> dict[str, Any]:
        options = {"amsgrad": False, "capturable": False, "fused": None, "decoupled_weight_decay": False}
        return super().group_defaults() | options
