"""Adadelta."""

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.adadelta import adadelta
from torch.optim.optimizer import ParamsT

from .._engine import backend
from .._engine.precision import Precision
from .._engine.spec import FusedTensors, Group, LoopTensors, State, TorchFlags, UpdateSpec
from ..clipping.policies import ClipPolicy
from . import checks, unfused
from .base import FusedOptimizer


class Adadelta(FusedOptimizer):
    r"""Adadelta (Zeiler 2012), as `torch.optim.Adadelta`.

    .. math:: v_t = \rho v_{t-1} + (1 - \rho) g_t^2, \quad
              \Delta_t = \frac{\sqrt{u_{t-1} + \epsilon}}{\sqrt{v_t + \epsilon}} g_t, \quad
              u_t = \rho u_{t-1} + (1 - \rho) \Delta_t^2, \quad \theta_t = \theta_{t-1} - \gamma \Delta_t

    Args:
        params: parameters, (name, parameter) pairs, or dicts that define groups; of any shape and dense layout.
        lr: learning rate :math:`\gamma`, a number or a one-element tensor. Default: 1.0.
        rho: :math:`\rho`, of both averages. Default: 0.9.
        eps: :math:`\epsilon`, inside the roots. Default: 1e-6.
        weight_decay: L2 penalty, added to the gradient. Default: 0.
        foreach, capturable, maximize, differentiable, clip, l1, precision: as in `RMSprop`.

    Raises:
        ValueError: an argument out of range.
        TypeError: `clip` is neither a policy nor a number.

    Example:
        >>> import torch, torch_gd
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch_gd.Adadelta(model.parameters(), lr=1.0)
        >>> model(torch.ones(2, 3)).sum().backward()
        >>> optimizer.step()
    """

    _older_checkpoints: ClassVar[Group] = FusedOptimizer._older_checkpoints | {"capturable": False}

    @checks.right_names
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        clip: ClipPolicy | float | None = None,
        l1: float = 0.0,
        precision: Precision | float | str | None = None,
    ) -> None:
        checks.learning_rate(lr)
        checks.from_zero_to_one(rho=rho)
        checks.not_negative(eps=eps, weight_decay=weight_decay)
        defaults = {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        more = {"capturable": capturable, "foreach": foreach, "differentiable": differentiable}
        super().__init__(params, defaults | more, clip, l1, precision)

    @staticmethod
    def spec(group: Group) -> UpdateSpec:
        """Return the rule, and what is faster on the CPU than what torch offers."""
        return UpdateSpec(
            rule=backend.rules and backend.rules.ADADELTA,
            hyperparameters=("lr", "rho", "eps", "weight_decay"),
            state_names=("square_avg", "acc_delta"),
            non_negative=("square_avg", "acc_delta"),
            fused_cpu=_fused_cpu,
            fused_cpu_dtypes=(torch.float32, torch.float64),
            foreach_below=unfused.FOREACH_BELOW,
            refuses_sparse="Adadelta does not support sparse gradients",
            torch_fuses=False,
            counts_steps=True,
        )

    @staticmethod
    def init_state(group: Group, p: Tensor) -> State:
        """Return the state of a parameter that has none; the engine adds the counter."""
        return unfused.zeros(p, "square_avg", "acc_delta")

    @staticmethod
    def torch_step(group: Group, tensors: LoopTensors, flags: TorchFlags) -> None:
        """Call torch's functional implementation."""
        unfused.call_torch(adadelta, ("square_avg", "acc_delta", "step"), group, tensors, flags)


def _fused_cpu(group: Group, tensors: FusedTensors) -> bool:
    return unfused.in_operators(_update, group, tensors)


def _update(
    ops: Any, group: Group, count: tuple[float, ...], params: Any, grads: Any, square_avgs: Any, acc_deltas: Any
) -> None:
    rho, eps = group["rho"], group["eps"]
    ops.mul_(square_avgs, rho)
    ops.addcmul_(square_avgs, grads, grads, value=1 - rho)
    roots, deltas = ops.add(square_avgs, eps), ops.add(acc_deltas, eps)
    ops.sqrt_(roots)
    ops.sqrt_(deltas)
    ops.div_(deltas, roots)
    ops.mul_(deltas, grads)
    ops.mul_(acc_deltas, rho)
    ops.addcmul_(acc_deltas, deltas, deltas, value=1 - rho)
    ops.add_(params, deltas, alpha=-float(group["lr"]))
