"""NAdam."""

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.nadam import nadam
from torch.optim.optimizer import ParamsT

from .._engine import backend
from .._engine.precision import Precision
from .._engine.spec import FusedTensors, Group, LoopTensors, State, TorchFlags, UpdateSpec, new_step_counter
from ..clipping.policies import ClipPolicy
from . import checks, unfused
from .base import FusedOptimizer


class NAdam(FusedOptimizer):
    r"""NAdam (Dozat 2016), Adam with Nesterov's momentum, as `torch.optim.NAdam`.

    .. math:: m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \quad
              \mu_t = \beta_1 (1 - \tfrac{1}{2} 0.96^{t \psi})

    .. math:: \theta_t = \theta_{t-1} - \gamma \left(\frac{(1 - \mu_t) g_t}{1 - \prod_{i=1}^t \mu_i}
              + \frac{\mu_{t+1} m_t}{1 - \prod_{i=1}^{t+1} \mu_i}\right)
              \Big/ \left(\sqrt{v_t / (1 - \beta_2^t)} + \epsilon\right)

    The product is a state, `mu_product`, beside the counter.

    Args:
        params: parameters, (name, parameter) pairs, or dicts that define groups; of any shape and dense layout.
        lr: learning rate :math:`\gamma`, a number or a one-element tensor. Default: 2e-3.
        betas: two numbers. Default: (0.9, 0.999).
        eps: :math:`\epsilon`. Default: 1e-8.
        weight_decay: L2 penalty, added to the gradient. Default: 0.
        momentum_decay: :math:`\psi`. Default: 4e-3.
        decoupled_weight_decay: decay the parameter, not the gradient. Default: False.
        foreach, maximize, capturable, differentiable, clip, l1, precision: as in `RMSprop`.

    Raises:
        ValueError: an argument out of range.
        TypeError: `clip` is neither a policy nor a number.

    Example:
        >>> import torch, torch_gd
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch_gd.NAdam(model.parameters(), lr=1e-3)
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
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
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
        checks.not_negative(eps=eps, weight_decay=weight_decay, momentum_decay=momentum_decay)
        checks.pair_of_betas(betas)
        defaults: Group = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        defaults |= {"momentum_decay": momentum_decay, "decoupled_weight_decay": decoupled_weight_decay}
        defaults |= {"maximize": maximize, "foreach": foreach, "capturable": capturable}
        defaults |= {"differentiable": differentiable}
        super().__init__(params, defaults, clip, l1, precision)

    @staticmethod
    def spec(group: Group) -> UpdateSpec:
        """Return the rule, and what is faster on the CPU than what torch offers."""
        return UpdateSpec(
            rule=backend.rules and backend.rules.NADAM,
            hyperparameters=("lr", "betas", "eps", "weight_decay", "momentum_decay"),
            state_names=("exp_avg", "exp_avg_sq"),
            non_negative=("exp_avg_sq",),
            options=(bool(group["decoupled_weight_decay"]),),
            fused_cpu=_fused_cpu,
            fused_cpu_dtypes=(torch.float32, torch.float64),
            foreach_below=unfused.FOREACH_BELOW,
            refuses_sparse="NAdam does not support sparse gradients",
            torch_fuses=False,
            lerped="exp_avg",
            counts_steps=True,
            products=("mu_product",),
        )

    @staticmethod
    def init_state(group: Group, p: Tensor) -> State:
        """Return the state of a parameter that has none."""
        return {
            "step": new_step_counter(group, p),
            "mu_product": new_step_counter(group, p, 1.0),
            **unfused.zeros(p, "exp_avg", "exp_avg_sq"),
        }

    @staticmethod
    def torch_step(group: Group, tensors: LoopTensors, flags: TorchFlags) -> None:
        """Call torch's functional implementation."""
        names = ("exp_avg", "exp_avg_sq", "mu_product", "step")
        unfused.call_torch(nadam, names, group, tensors, flags)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for p in group["params"]:
                product = self.state.get(p, {}).get("mu_product")
                if product is not None and not isinstance(product, Tensor):  # in an old checkpoint
                    self.state[p]["mu_product"] = new_step_counter(group, p, float(product))


def _mu(group: Group, step: float) -> float:
    return float(group["betas"][0] * (1 - 0.5 * 0.96 ** (step * group["momentum_decay"])))


def _fused_cpu(group: Group, tensors: FusedTensors) -> bool:
    (products,) = tensors.products
    torch._foreach_mul_(products, [_mu(group, step.item()) for step in tensors.steps])
    return unfused.in_operators(_update, group, tensors)


def _update(
    ops: Any, group: Group, count: tuple[float, ...], params: Any, grads: Any, exp_avgs: Any, exp_avg_sqs: Any
) -> None:
    (beta1, beta2), (step, product) = group["betas"], count
    correction, following = (1 - beta2**step) ** 0.5, _mu(group, step + 1)
    factor = -float(group["lr"]) * correction
    ops.lerp_(exp_avgs, grads, 1 - beta1)
    ops.mul_(exp_avg_sqs, beta2)
    ops.addcmul_(exp_avg_sqs, grads, grads, value=1 - beta2)
    roots = ops.sqrt(exp_avg_sqs)
    ops.add_(roots, group["eps"] * correction)
    ops.addcdiv_(params, grads, roots, value=factor * (1 - _mu(group, step)) / (1 - product))
    ops.addcdiv_(params, exp_avgs, roots, value=factor * following / (1 - product * following))
