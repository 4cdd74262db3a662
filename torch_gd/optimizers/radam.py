"""RAdam."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from torch.optim.radam import radam

from .._engine import backend
from .._engine.precision import Precision
from .._engine.spec import FusedTensors, Group, LoopTensors, State, TorchFlags, UpdateSpec
from ..clipping.policies import ClipPolicy
from . import checks, unfused
from .base import FusedOptimizer

LARGE = 2.0**64  # an eps beside which Adam's denominator vanishes, as an lr that is as large makes up for


class RAdam(FusedOptimizer):
    r"""RAdam (Liu et al. 2020), Adam without its second moment until this can be estimated, as `torch.optim.RAdam`.

    .. math:: m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \quad
              \rho_t = \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t}, \quad \rho_\infty = \frac{2}{1 - \beta_2} - 1

    .. math:: r_t^2 = \frac{(\rho_t - 4)(\rho_t - 2) \rho_\infty}{(\rho_\infty - 4)(\rho_\infty - 2) \rho_t}, \quad
              \theta_t = \theta_{t-1} - \gamma \frac{m_t}{1 - \beta_1^t}
              \frac{r_t \sqrt{1 - \beta_2^t}}{\sqrt{v_t} + \epsilon}

    and without the last fraction while :math:`\rho_t \le 5`, in the first few steps.

    Args:
        params: parameters, (name, parameter) pairs, or dicts that define groups; of any shape and dense layout.
        lr: learning rate :math:`\gamma`, a number or a one-element tensor. Default: 1e-3.
        betas: two numbers. Default: (0.9, 0.999).
        eps: :math:`\epsilon`. Default: 1e-8.
        weight_decay: L2 penalty, added to the gradient. Default: 0.
        decoupled_weight_decay: decay the parameter, not the gradient. Default: False.
        foreach, maximize, capturable, differentiable, clip, l1, precision: as in `RMSprop`.

    Raises:
        ValueError: an argument out of range.
        TypeError: `clip` is neither a policy nor a number.

    Example:
        >>> import torch, torch_gd
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch_gd.RAdam(model.parameters(), lr=1e-3)
        >>> model(torch.ones(2, 3)).sum().backward()
        >>> optimizer.step()
    """

    _older_checkpoints: ClassVar[Group] = FusedOptimizer._older_checkpoints | {
        "capturable": False,
        "decoupled_weight_decay": False,
    }

    @checks.right_names
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        clip: ClipPolicy | float | None = None,
        l1: float = 0.0,
        precision: Precision | float | str | None = None,
    ) -> None:
        checks.learning_rate(lr)
        checks.not_negative(eps=eps, weight_decay=weight_decay)
        checks.pair_of_betas(betas)
        defaults: Group = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        defaults |= {"foreach": foreach, "capturable": capturable, "decoupled_weight_decay": decoupled_weight_decay}
        defaults |= {"differentiable": differentiable}
        super().__init__(params, defaults, clip, l1, precision)

    @staticmethod
    def spec(group: Group) -> UpdateSpec:
        """Return the rule, and torch's fused Adam for the CPU."""
        return UpdateSpec(
            rule=backend.rules and backend.rules.RADAM,
            hyperparameters=("lr", "betas", "eps", "weight_decay"),
            state_names=("exp_avg", "exp_avg_sq"),
            non_negative=("exp_avg_sq",),
            options=(bool(group["decoupled_weight_decay"]),),
            fused_cpu=_fused_cpu,
            fused_cpu_dtypes=(torch.float32, torch.float64),
            foreach_below=unfused.FOREACH_BELOW,
            refuses_sparse="RAdam does not support sparse gradients",
            torch_fuses=False,
            lerped="exp_avg",
            counts_steps=True,
        )

    @staticmethod
    def init_state(group: Group, p: Tensor) -> State:
        """Return the state of a parameter that has none; the engine adds the counter."""
        return unfused.zeros(p, "exp_avg", "exp_avg_sq")

    @staticmethod
    def torch_step(group: Group, tensors: LoopTensors, flags: TorchFlags) -> None:
        """Call torch's functional implementation."""
        names = ("exp_avg", "exp_avg_sq", "step")
        unfused.call_torch(radam, names, group, tensors, flags)


def _fused_cpu(group: Group, tensors: FusedTensors) -> bool:
    """Update by torch's fused Adam: it is RAdam with another lr and eps, which depend on the step."""
    lr, (_, beta2) = float(group["lr"]), group["betas"]
    kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
    for (step,), some in unfused.by_step(tensors):
        factor, eps = LARGE, LARGE
        if (rectified := _rectification(beta2, step)) > 0:
            factor, eps = rectified, group["eps"] / (1 - beta2**step) ** 0.5
        kernel(
            some.params,
            some.grads,
            some.states[0],
            some.states[1],
            [],
            some.steps,
            lr=lr * factor,
            beta1=group["betas"][0],
            beta2=beta2,
            weight_decay=group["weight_decay"] / (factor if group["decoupled_weight_decay"] else 1.0),
            eps=eps,
            amsgrad=False,
            maximize=bool(group["maximize"]),
        )
    return False


def _rectification(beta2: float, step: float) -> float:
    """Return r of a step; 0 while it is not defined."""
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * step * beta2**step / (1 - beta2**step)
    if length <= 5:
        return 0.0
    ratio = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    return float(ratio**0.5)
