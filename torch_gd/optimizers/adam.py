"""Adam, and what AdamW shares with it."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.optimizer import ParamsT

from .._engine import backend
from .._engine.precision import Precision
from .._engine.spec import FusedTensors, Group, LoopTensors, State, TorchFlags, UpdateSpec, new_step_counter
from ..clipping.policies import ClipPolicy
from . import checks
from .base import FusedOptimizer


class Adam(FusedOptimizer):
    r"""Adam (Kingma & Ba 2015; AMSGrad: Reddi, Kale & Kumar 2018), as `torch.optim.Adam`.

    .. math:: m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \quad
              \theta_t = \theta_{t-1} -
              \gamma \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

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
        clip: a policy of `torch_gd.clipping`, or a number for `ClipByGlobalNorm`; not in torch. Default: None.
        l1: decoupled L1 penalty, a soft threshold of lr · l1 after each update; not in torch. Default: 0.
        precision: a `torch_gd.Precision`, or a number of bytes a parameter; not in torch. Default: None.

    Raises:
        ValueError: an argument out of range, or a tensor where torch takes none.
        RuntimeError: `fused` together with `differentiable` or `foreach`, or for a parameter that no fused
            implementation serves.
        TypeError: `clip` is neither a policy nor a number.

    Example:
        >>> import torch, torch_gd
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch_gd.Adam(model.parameters(), lr=1e-3)
        >>> model(torch.ones(2, 3)).sum().backward()
        >>> optimizer.step()
    """

    _older_checkpoints: ClassVar[Group] = FusedOptimizer._older_checkpoints | {
        "amsgrad": False,
        "capturable": False,
        "fused": None,
        "decoupled_weight_decay": False,
    }

    @checks.right_names
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
        clip: ClipPolicy | float | None = None,
        l1: float = 0.0,
        precision: Precision | float | str | None = None,
    ) -> None:
        checks.learning_rate(lr, foreach, capturable)
        checks.not_negative(eps=eps, weight_decay=weight_decay)
        checks.one_implementation(foreach, fused, differentiable)
        defaults = {
            "lr": lr,
            "betas": checks.betas(betas, foreach, capturable),
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
        super().__init__(params, defaults, clip, l1, precision)

    @staticmethod
    def spec(group: Group) -> UpdateSpec:
        """Return the rule and what torch offers for it."""
        rules = backend.rules
        return UpdateSpec(
            rule=rules and (rules.ADAMW if group["decoupled_weight_decay"] else rules.ADAM),
            hyperparameters=("lr", "betas", "eps", "weight_decay"),
            state_names=_state_names(group),
            non_negative=("exp_avg_sq", "max_exp_avg_sq"),
            rounds_badly="the maximum of AMSGrad would drift upwards" if group["amsgrad"] else "",
            options=(group["amsgrad"],),
            fused_cpu=_fused_cpu,
            counts_steps=True,
            refuses_sparse="Adam does not support sparse gradients, please consider SparseAdam instead",
            lerped="exp_avg",
        )

    @staticmethod
    def init_state(group: Group, p: Tensor) -> State:
        """Return the state of a parameter that has none."""
        zeros = {name: torch.zeros_like(p, memory_format=torch.preserve_format) for name in _state_names(group)}
        return {"step": new_step_counter(group, p), **zeros}

    @staticmethod
    def torch_step(group: Group, tensors: LoopTensors, flags: TorchFlags) -> None:
        """Call torch's functional implementation."""
        states = tensors.states
        adam(
            tensors.params,
            tensors.grads,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [state["max_exp_avg_sq"] for state in states] if group["amsgrad"] else [],
            [state["step"] for state in states],
            capturable=group["capturable"],
            differentiable=group["differentiable"],
            has_complex=any(p.is_complex() for p in tensors.params),
            decoupled_weight_decay=group["decoupled_weight_decay"],
            amsgrad=group["amsgrad"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
            **flags._asdict(),
        )


def _state_names(group: Group) -> tuple[str, ...]:
    return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq")


def _fused_cpu(group: Group, tensors: FusedTensors) -> bool:
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
