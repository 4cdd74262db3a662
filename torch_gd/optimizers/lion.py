"""Lion."""

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT, _default_to_fused_or_foreach

from .._engine import backend
from .._engine.precision import Precision
from .._engine.spec import Group, LoopTensors, State, TorchFlags, UpdateSpec
from ..clipping.policies import ClipPolicy
from . import checks, unfused
from .base import FusedOptimizer


class Lion(FusedOptimizer):
    r"""Lion (Chen et al. 2023), whose every update is a sign, so that all elements move by the learning rate.

    .. math:: \theta_t = (1 - \gamma \lambda) \theta_{t-1}
              - \gamma \operatorname{sign}(\beta_1 m_{t-1} + (1 - \beta_1) g_t), \quad
              m_t = \beta_2 m_{t-1} + (1 - \beta_2) g_t

    where sign(0) = 0. It wants a learning rate of a third to a tenth of AdamW's, and a weight decay as much larger.

    Args:
        params: parameters, (name, parameter) pairs, or dicts that define groups; of any shape and dense layout.
        lr: learning rate :math:`\gamma`, a number or a one-element tensor. Default: 1e-4.
        betas: two numbers. Default: (0.9, 0.99).
        weight_decay: :math:`\lambda`, decoupled. Default: 0.
        maximize, foreach, differentiable, clip, l1, precision: as in `RMSprop`.

    Raises:
        ValueError: an argument out of range.
        TypeError: `clip` is neither a policy nor a number.

    Example:
        >>> import torch, torch_gd
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch_gd.Lion(model.parameters(), lr=1e-4, weight_decay=0.1)
        >>> model(torch.ones(2, 3)).sum().backward()
        >>> optimizer.step()
    """

    @checks.right_names
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        clip: ClipPolicy | float | None = None,
        l1: float = 0.0,
        precision: Precision | float | str | None = None,
    ) -> None:
        checks.learning_rate(lr)
        checks.pair_of_betas(betas)
        checks.not_negative(weight_decay=weight_decay)
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay}
        more = {"maximize": maximize, "foreach": foreach, "differentiable": differentiable}
        super().__init__(params, defaults | more, clip, l1, precision)

    @staticmethod
    def spec(group: Group) -> UpdateSpec:
        """Return the rule, and where foreach is the faster one of torch's operators."""
        return UpdateSpec(
            rule=backend.rules and backend.rules.LION,
            hyperparameters=("lr", "betas", "weight_decay"),
            state_names=("exp_avg",),
            foreach_below=unfused.FOREACH_BELOW,
            refuses_sparse="Lion does not support sparse gradients",
            torch_fuses=False,
        )

    @staticmethod
    def init_state(group: Group, p: Tensor) -> State:
        """Return the state of a parameter that has none."""
        return unfused.zeros(p, "exp_avg")

    @staticmethod
    def torch_step(group: Group, tensors: LoopTensors, flags: TorchFlags) -> None:
        """Update all tensors at once by torch's foreach operators, or one after the other."""
        params, grads, foreach = tensors.params, tensors.grads, flags.foreach
        exp_avgs = [state["exp_avg"] for state in tensors.states]
        if foreach is None:
            _, foreach = _default_to_fused_or_foreach(params, group["differentiable"], use_fused=False)
        if foreach:
            _update(group, params, grads, exp_avgs)
        else:
            for p, g, exp_avg in zip(params, grads, exp_avgs):
                _update(group, [p], [g], [exp_avg])


def _update(group: Group, params: list[Tensor], grads: list[Tensor], exp_avgs: list[Tensor]) -> None:
    (beta1, beta2), lr = group["betas"], group["lr"]
    if params[0].is_complex():
        params, grads, exp_avgs = (list(map(torch.view_as_real, column)) for column in (params, grads, exp_avgs))
    if grads[0].dtype != exp_avgs[0].dtype:  # lerp takes one dtype
        grads = [g.to(exp_avg.dtype) for g, exp_avg in zip(grads, exp_avgs)]
    if group["maximize"]:
        grads = list(torch._foreach_neg(grads))
    updates = torch._foreach_lerp(exp_avgs, grads, 1 - beta1)
    torch._foreach_sign_(updates)
    if group["weight_decay"] != 0:
        decay = 1 - lr * group["weight_decay"]
        torch._foreach_mul_(params, decay.reshape(()) if isinstance(decay, Tensor) else float(decay))
    if isinstance(lr, Tensor):  # not read by the host, and seen by autograd
        torch._foreach_mul_(updates, lr.reshape(()))
        torch._foreach_sub_(params, updates)
    else:
        torch._foreach_add_(params, updates, alpha=-lr)
    torch._foreach_lerp_(exp_avgs, grads, 1 - beta2)
