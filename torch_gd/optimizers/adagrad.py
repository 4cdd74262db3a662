"""Adagrad."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.adagrad import adagrad
from torch.optim.optimizer import ParamsT

from . import checks as validate
from .._engine.backend import rules
from .._engine.batch import FusedTensors
from ..clipping.functions import ClipPolicy
from .base import FusedOptimizer, Group, State


class Adagrad(FusedOptimizer):
    r"""Adagrad (Duchi, Hazan & Singer 2011), as `torch.optim.Adagrad`.

    .. math:: s_t = s_{t-1} + g_t^2, \quad
              \theta_t = \theta_{t-1} - \frac{\gamma}{1 + (t - 1) \eta} \frac{g_t}{\sqrt{s_t} + \epsilon}

    Args:
        params: parameters, (name, parameter) pairs, or dicts that define groups; of any shape and dense layout.
        lr: learning rate, a number or a one-element tensor. Default: 1e-2.
        lr_decay: :math:`\eta`. Default: 0.
        weight_decay: L2 penalty, added to the gradient. Default: 0.
        initial_accumulator_value: :math:`s_0`. Default: 0.
        eps: :math:`\epsilon`. Default: 1e-10.
        foreach: True or False takes torch's foreach or for-loop implementation. Default: None, the fastest there is.
        maximize: ascend instead. Default: False.
        differentiable: let autograd see the step; torch's for-loop implementation. Default: False.
        fused: True insists on a fused implementation and takes part in `torch.amp.GradScaler`'s unscaling; False takes
            torch's. Default: None, the fastest there is.
        clip: a policy of `torch_gd.clip_grad` for gradients as the step reads them; not in torch. Default: None.
        l1: decoupled L1 penalty, a soft threshold of lr · l1 after each update; not in torch. Default: 0.

    Raises:
        ValueError: an argument out of range.
        RuntimeError: `fused` together with `differentiable` or `foreach`, or for a parameter that none serves.

    Example:
        >>> optimizer = torch_gd.Adagrad(model.parameters(), lr=0.01)
        >>> loss_fn(model(input), target).backward(); optimizer.step()
    """

    accepts_sparse = True
    has_torch_fused = True

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        clip: ClipPolicy | None = None,
        l1: float = 0.0,
    ) -> None:
        validate.learning_rate(lr)
        validate.not_negative(
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
        )
        validate.one_implementation(foreach, fused, differentiable)
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "eps": eps,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults, clip, l1)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p] = self.new_state(group, p)

    def rule(self, group: Group) -> tuple[Any, tuple[Any, ...]]:
        return rules.ADAGRAD, ()

    def state_names(self, group: Group) -> tuple[str, ...]:
        return ("sum",)

    def hyperparameters(self, group: Group) -> tuple[float | Tensor, ...]:
        return group["lr"], group["lr_decay"], group["weight_decay"], group["eps"]

    def new_state(self, group: Group, p: Tensor) -> State:
        value = group["initial_accumulator_value"]
        start = complex(value, value) if p.is_complex() else value
        return {
            "step": self.step_counter(group, p),
            "sum": torch.full_like(p, start, memory_format=torch.preserve_format),
        }

    def functional(
        self, group: Group, params: list[Tensor], grads: list[Tensor], states: list[State], flags: dict[str, Any]
    ) -> None:
        adagrad(
            params,
            grads,
            [state["sum"] for state in states],
            [state["step"] for state in states],
            has_sparse_grad=any(g.is_sparse for g in grads),
            differentiable=group["differentiable"],
            has_complex=any(p.is_complex() for p in params),
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            lr_decay=group["lr_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
            **flags,
        )

    def fused_update(self, group: Group, tensors: FusedTensors) -> bool:
        torch._fused_adagrad_(
            tensors.params,
            tensors.grads,
            tensors.states[0],
            tensors.steps,
            lr=float(group["lr"]),
            lr_decay=group["lr_decay"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=bool(group["maximize"]),
        )
        return False

    def sparse_conflict(self, group: Group) -> str:
        return "weight_decay option is not compatible with sparse gradients" if group["weight_decay"] != 0 else ""

    def share_memory(self) -> None:
        """Moves the sums into shared memory, as `torch.optim.Adagrad.share_memory`."""
        for state in self.state.values():
            state["sum"].share_memory_()

    def group_defaults(self) -> dict[str, Any]:
        return super().group_defaults() | {"fused": None}
