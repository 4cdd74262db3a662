"""RMSprop."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from torch.optim.rmsprop import rmsprop

from .._engine import backend
from .._engine.precision import Precision
from .._engine.spec import Group, LoopTensors, State, TorchFlags, UpdateSpec, new_step_counter
from ..clipping.policies import ClipPolicy
from . import checks
from .base import FusedOptimizer
from .fused_rmsprop import fused_cpu, is_adam


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
        clip: a policy of `torch_gd.clipping`, or a number for `ClipByGlobalNorm`; not in torch. Default: None.
        l1: decoupled L1 penalty, a soft threshold of lr · l1 after each update; not in torch. Default: 0.
        precision: a `torch_gd.Precision`, or a number of bytes a parameter; not in torch. Default: None.

    Raises:
        ValueError: an argument out of range.
        TypeError: `clip` is neither a policy nor a number.

    Example:
        >>> import torch, torch_gd
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch_gd.RMSprop(model.parameters(), lr=0.01)
        >>> model(torch.ones(2, 3)).sum().backward()
        >>> optimizer.step()
    """

    _older_checkpoints: ClassVar[Group] = FusedOptimizer._older_checkpoints | {
        "momentum": 0,
        "centered": False,
        "capturable": False,
    }

    @checks.right_names
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
        clip: ClipPolicy | float | None = None,
        l1: float = 0.0,
        precision: Precision | float | str | None = None,
    ) -> None:
        checks.learning_rate(lr)
        checks.not_negative(eps=eps, momentum=momentum, weight_decay=weight_decay, alpha=alpha)
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
        super().__init__(params, defaults, clip, l1, precision)

    @staticmethod
    def spec(group: Group) -> UpdateSpec:
        """Return the rule and what torch offers for it."""
        centered = ("grad_avg",) if group["centered"] else ()
        momentum = ("momentum_buffer",) if group["momentum"] > 0 else ()
        return UpdateSpec(
            rule=backend.rules and backend.rules.RMSPROP,
            hyperparameters=("lr", "alpha", "eps", "weight_decay", "momentum"),
            state_names=("square_avg", *centered, *momentum),
            non_negative=("square_avg",),
            rounds_badly="the variance of centered RMSprop could become negative" if group["centered"] else "",
            options=(group["centered"], group["momentum"] > 0),
            fused_cpu=fused_cpu if is_adam(group) else None,
            fused_cpu_dtypes=(torch.float32, torch.float64),
            torch_fuses=False,
            # torch's default on the CPU is its for-loop, which takes twice as long as foreach over 300 small tensors,
            # and less over few or large ones.
            foreach_below=1 << 14,
            counts_steps=True,
            refuses_sparse="RMSprop does not support sparse gradients",
            lerped="grad_avg" if group["centered"] else "",
        )

    @staticmethod
    def init_state(group: Group, p: Tensor) -> State:
        """Return the state of a parameter that has none, in torch's order."""
        names = ["square_avg"]
        names += ["momentum_buffer"] if group["momentum"] > 0 else []
        names += ["grad_avg"] if group["centered"] else []
        zeros = {name: torch.zeros_like(p, memory_format=torch.preserve_format) for name in names}
        return {"step": new_step_counter(group, p), **zeros}

    @staticmethod
    def torch_step(group: Group, tensors: LoopTensors, flags: TorchFlags) -> None:
        """Call torch's functional implementation."""
        states = tensors.states
        rmsprop(
            tensors.params,
            tensors.grads,
            [state["square_avg"] for state in states],
            [state["grad_avg"] for state in states] if group["centered"] else [],
            [state["momentum_buffer"] for state in states] if group["momentum"] > 0 else [],
            [state["step"] for state in states],
            foreach=flags.foreach,
            maximize=group["maximize"],
            differentiable=group["differentiable"],
            capturable=group["capturable"],
            has_complex=any(p.is_complex() for p in tensors.params),
            lr=group["lr"],
            alpha=group["alpha"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            centered=group["centered"],
        )
