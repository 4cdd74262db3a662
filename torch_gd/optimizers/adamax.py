"""Adamax."""

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.adamax import adamax
from torch.optim.optimizer import ParamsT

from .._engine import backend
from .._engine.precision import Precision
from .._engine.spec import FusedTensors, Group, LoopTensors, State, TorchFlags, UpdateSpec
from ..clipping.policies import ClipPolicy
from . import checks, unfused
from .base import FusedOptimizer


class Adamax(FusedOptimizer):
    r"""Adamax (Kingma & Ba 2015), Adam with the largest gradient in the place of the second moment.

    .. math:: m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad u_t = \max(\beta_2 u_{t-1}, |g_t| + \epsilon), \quad
              \theta_t = \theta_{t-1} - \frac{\gamma}{1 - \beta_1^t} \frac{m_t}{u_t}

    as `torch.optim.Adamax`.

    Args:
        params: parameters, (name, parameter) pairs, or dicts that define groups; of any shape and dense layout.
        lr: learning rate :math:`\gamma`, a number or a one-element tensor. Default: 2e-3.
        betas: two numbers. Default: (0.9, 0.999).
        eps: :math:`\epsilon`, added to the gradient's size. Default: 1e-8.
        weight_decay: L2 penalty, added to the gradient. Default: 0.
        foreach, maximize, differentiable, capturable, clip, l1, precision: as in `RMSprop`.

    Raises:
        ValueError: an argument out of range.
        TypeError: `clip` is neither a policy nor a number.

    Example:
        >>> import torch, torch_gd
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch_gd.Adamax(model.parameters(), lr=2e-3)
        >>> model(torch.ones(2, 3)).sum().backward()
        >>> optimizer.step()
    """

    _older_checkpoints: ClassVar[Group] = FusedOptimizer._older_checkpoints | {"capturable": False}

    @checks.right_names
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        clip: ClipPolicy | float | None = None,
        l1: float = 0.0,
        precision: Precision | float | str | None = None,
    ) -> None:
        checks.learning_rate(lr)
        checks.not_negative(eps=eps, weight_decay=weight_decay)
        checks.pair_of_betas(betas)
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "foreach": foreach}
        more = {"maximize": maximize, "differentiable": differentiable, "capturable": capturable}
        super().__init__(params, defaults | more, clip, l1, precision)

    @staticmethod
    def spec(group: Group) -> UpdateSpec:
        """Return the rule, and what is faster on the CPU than what torch offers."""
        return UpdateSpec(
            rule=backend.rules and backend.rules.ADAMAX,
            hyperparameters=("lr", "betas", "eps", "weight_decay"),
            state_names=("exp_avg", "exp_inf"),
            non_negative=("exp_inf",),
            fused_cpu=_fused_cpu,
            fused_cpu_dtypes=(torch.float32, torch.float64),
            foreach_below=unfused.FOREACH_BELOW,
            refuses_sparse="Adamax does not support sparse gradients",
            torch_fuses=False,
            lerped="exp_avg",
            counts_steps=True,
        )

    @staticmethod
    def init_state(group: Group, p: Tensor) -> State:
        """Return the state of a parameter that has none; the engine adds the counter."""
        return unfused.zeros(p, "exp_avg", "exp_inf")

    @staticmethod
    def torch_step(group: Group, tensors: LoopTensors, flags: TorchFlags) -> None:
        """Call torch's functional implementation."""
        unfused.call_torch(adamax, ("exp_avg", "exp_inf", "step"), group, tensors, flags)


def _fused_cpu(group: Group, tensors: FusedTensors) -> bool:
    return unfused.in_operators(_update, group, tensors)


def _update(
    ops: Any, group: Group, count: tuple[float, ...], params: Any, grads: Any, exp_avgs: Any, exp_infs: Any
) -> None:
    beta1, beta2 = group["betas"]
    ops.lerp_(exp_avgs, grads, 1 - beta1)
    ops.mul_(exp_infs, beta2)
    sizes = ops.abs(grads)
    ops.add_(sizes, group["eps"])
    ops.clamp_min_(exp_infs, sizes)
    ops.addcdiv_(params, exp_avgs, exp_infs, value=-float(group["lr"]) / (1 - beta1 ** count[0]))
