"""LAMB: Adam whose step is scaled for each tensor."""

from math import inf

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from .._engine import backend
from .._engine.precision import Precision
from .._engine.spec import FusedTensors, Group, LayerStep, LoopTensors, State, TorchFlags, UpdateSpec, new_step_counter
from ..clipping.policies import ClipPolicy
from . import checks
from .base import FusedOptimizer
from .fused_rmsprop import STEP
from .layerwise import adapts, decays, in_one_precision, plus, ratio_or_one, scaled


class LAMB(FusedOptimizer):
    r"""LAMB (You et al. 2020): Adam whose step is scaled, for each tensor, to the tensor's own norm.

    .. math:: u_t = \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon} + \lambda \theta_{t-1}, \quad
              \theta_t = \theta_{t-1} - \gamma \frac{\phi(\|\theta_{t-1}\|)}{\|u_t\|} u_t

    with m and v as in `Adam`; the ratio is 1 where a norm is 0. Published definitions differ; these options give them:

    | whose | options |
    |---|---|
    | the paper's | the defaults; its first version bounds the norm: `phi=(0, 10)` |
    | apex's `FusedLAMB`, with `use_nvlamb` | `clip=1.0` |
    | apex's `FusedLAMB`, as in MLPerf | `clip=1.0, always_adapt=False` |
    | timm's `Lamb` | `clip=1.0, always_adapt=False`; its `trust_clip` is `max_trust=1.0` |
    | optax's `lamb` | `weight_decay=0` where none is given |

    `clip=1.0` clips as `clip_grad_norm_` does; apex and timm leave out its 1e-6, which Adam's step hardly feels.

    Args:
        params: parameters, (name, parameter) pairs, or dicts that define groups; of any shape and dense layout.
        lr: learning rate :math:`\gamma`, a number or a one-element tensor. Default: 1e-3.
        betas: both numbers or both one-element tensors. Default: (0.9, 0.999).
        eps: :math:`\epsilon`. Default: 1e-6.
        weight_decay: :math:`\lambda`. Default: 1e-2.
        bias_correction: divide by :math:`1 - \beta^t`. Default: True.
        grad_averaging: weight the gradient in m by :math:`1 - \beta_1`, not by 1. Default: True.
        adam_w_mode: False adds the decay to the gradient instead of the step, as apex's option does. Default: True.
        decoupled_weight_decay: take the decay off the parameter first, by :math:`1 - \gamma\lambda`, and out of u, as
            timm's `decoupled_decay` does. Default: False.
        always_adapt: False leaves the ratio at 1 (at `max_trust`, if that is below 1) in groups without weight decay,
            where biases and norms are. Default: True.
        phi: bounds between which the parameter's norm is clamped. Default: (0, inf).
        max_trust: upper bound of the ratio. Default: inf.
        maximize: ascend instead. Default: False.
        foreach: True or False takes the implementation on torch's operators. Default: None, the fastest there is.
        capturable: keep counters on the GPU, so that a CUDA graph can hold the step. Default: False.
        differentiable: let autograd see the step; torch's operators. Default: False.
        fused: True insists on a fused implementation and takes part in `torch.amp.GradScaler`'s unscaling; False takes
            torch's operators. Default: None, the fastest there is.
        clip: a policy of `torch_gd.clipping`, or a number for `ClipByGlobalNorm`. Default: None.
        l1: decoupled L1 penalty, a soft threshold of lr · l1 after each update. Default: 0.
        precision: a `torch_gd.Precision`, or a number of bytes a parameter; not in torch. Default: None.

    Raises:
        ValueError: an argument out of range, or `decoupled_weight_decay` without `adam_w_mode`.
        RuntimeError: `fused` together with `differentiable` or `foreach`, or for a parameter that no fused
            implementation serves.
        TypeError: `clip` is neither a policy nor a number.

    Example:
        >>> import torch, torch_gd
        >>> model = torch.nn.Linear(3, 1)
        >>> groups = torch_gd.param_groups_weight_decay(model, 0.01)  # without the bias, of which the ratio is then 1
        >>> optimizer = torch_gd.LAMB(groups, lr=1e-2, always_adapt=False)
        >>> model(torch.ones(2, 3)).sum().backward()
        >>> optimizer.step()
    """

    @checks.right_names
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 1e-2,
        *,
        bias_correction: bool = True,
        grad_averaging: bool = True,
        adam_w_mode: bool = True,
        decoupled_weight_decay: bool = False,
        always_adapt: bool = True,
        phi: tuple[float, float] = (0.0, inf),
        max_trust: float = inf,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        clip: ClipPolicy | float | None = None,
        l1: float = 0.0,
        precision: Precision | float | str | None = None,
    ) -> None:
        checks.learning_rate(lr)
        checks.not_negative(eps=eps, weight_decay=weight_decay, max_trust=max_trust)
        checks.bounds("phi", phi)
        checks.one_implementation(foreach, fused, differentiable)
        if decoupled_weight_decay and not adam_w_mode:
            raise ValueError("adam_w_mode=False and decoupled_weight_decay=True contradict each other; leave one out")
        defaults = {
            "lr": lr,
            "betas": checks.betas(betas, None, True),
            "eps": eps,
            "weight_decay": weight_decay,
            "bias_correction": bias_correction,
            "grad_averaging": grad_averaging,
            "adam_w_mode": adam_w_mode,
            "decoupled_weight_decay": decoupled_weight_decay,
            "always_adapt": always_adapt,
            "phi": (float(phi[0]), float(phi[1])),
            "max_trust": max_trust,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults, clip, l1, precision)

    @staticmethod
    def spec(group: Group) -> UpdateSpec:
        """Return the rule, and torch's fused Adam on the CPU where it does the first half."""
        return UpdateSpec(
            rule=backend.layer_rules and backend.layer_rules.LAMB,
            hyperparameters=(
                *("lr", "betas", "eps", "weight_decay", "bias_correction", "grad_averaging", "adam_w_mode"),
                *("decoupled_weight_decay", "always_adapt", "phi", "max_trust"),
            ),
            state_names=("exp_avg", "exp_avg_sq"),
            non_negative=("exp_avg_sq",),
            options=(not group["adam_w_mode"],),
            fused_cpu=_fused_cpu if _is_adam(group) else None,
            fused_cpu_dtypes=(torch.float32, torch.float64),
            torch_fuses=False,
            counts_steps=True,
            refuses_sparse="LAMB does not support sparse gradients",
            layerwise="update",
        )

    @staticmethod
    def init_state(group: Group, p: Tensor) -> State:
        """Return the state of a parameter that has none."""
        names = ("exp_avg", "exp_avg_sq")
        zeros = {name: torch.zeros_like(p, memory_format=torch.preserve_format) for name in names}
        return {"step": new_step_counter(group, p), **zeros}

    @staticmethod
    def torch_step(group: Group, tensors: LoopTensors, flags: TorchFlags) -> LayerStep:
        """Update on torch's operators."""
        beta1, beta2 = group["betas"]
        exp_avgs, exp_avg_sqs = ([state[name] for state in tensors.states] for name in ("exp_avg", "exp_avg_sq"))
        counters = [state["step"] for state in tensors.states]
        torch._foreach_add_(counters, 1)
        steps = [step.item() if step.is_cpu else step.double() for step in counters]
        with in_one_precision(tensors.grads, tensors.params, exp_avgs, exp_avg_sqs) as given:
            grads, params, firsts, seconds = given
            if group["maximize"]:
                grads = list(torch._foreach_neg(grads))
            if not group["adam_w_mode"] and decays(group):
                grads = plus(grads, params, group["weight_decay"])
            firsts[:] = plus(torch._foreach_mul(firsts, beta1), grads, 1 - beta1 if group["grad_averaging"] else 1.0)
            seconds[:] = plus(torch._foreach_mul(seconds, beta2), torch._foreach_mul(grads, grads), 1 - beta2)
            roots = torch._foreach_sqrt(seconds)
            if group["bias_correction"]:
                roots = torch._foreach_div(roots, [(1 - beta2**step) ** 0.5 for step in steps])
            updates = list(torch._foreach_div(firsts, torch._foreach_add(roots, group["eps"])))
            if group["bias_correction"]:
                updates = list(torch._foreach_div(updates, [1 - beta1**step for step in steps]))
            if group["adam_w_mode"] and not group["decoupled_weight_decay"] and decays(group):
                updates = plus(updates, params, group["weight_decay"])
            p_norms, u_norms = yield updates
            updates = scaled(updates, _trust(group, p_norms, u_norms))
            if group["decoupled_weight_decay"]:
                updates = plus(updates, params, group["weight_decay"])
            params[:] = torch._foreach_sub(params, torch._foreach_mul(updates, group["lr"]))


def _trust(group: Group, p_norms: Tensor, u_norms: Tensor) -> Tensor:
    """Return the ratio of each tensor."""
    least, largest = group["phi"]
    kept = 1 - group["lr"] * group["weight_decay"] if group["decoupled_weight_decay"] else 1.0
    ratios = (p_norms * kept).clamp(least, largest) / u_norms
    return ratio_or_one(group, p_norms, u_norms, ratios).clamp(max=group["max_trust"])


def _trust_of_one(group: Group, p_norm: float, u_norm: float) -> float:
    """Return what `_trust` does, of one tensor, in a fraction of the time that its operators take for a few tensors."""
    least, largest = group["phi"]
    kept = 1 - float(group["lr"]) * group["weight_decay"] if group["decoupled_weight_decay"] else 1.0
    ratio = min(max(p_norm * kept, least), largest) / u_norm if min(p_norm, u_norm) > 0 and adapts(group) else 1.0
    return float(min(ratio if ratio < inf else 1.0, group["max_trust"]))


def _is_adam(group: Group) -> bool:
    """Return whether the first half of the step is Adam's."""
    numbers = all(isinstance(beta, (int, float)) for beta in group["betas"])
    return bool(numbers and group["grad_averaging"] and (group["adam_w_mode"] or group["weight_decay"] == 0))


def _fused_cpu(group: Group, tensors: FusedTensors) -> LayerStep:
    """Update by `torch._fused_adam_`.

    `updates` begin as weight_decay · parameters. torch's kernel adds Adam's step to them, since its lr is -1.
    """
    params, steps, lr = tensors.params, tensors.steps, float(group["lr"])
    if group["weight_decay"] == 0 or group["decoupled_weight_decay"]:
        updates = list(map(torch.zeros_like, params))
    else:
        updates = list(torch._foreach_mul(params, group["weight_decay"]))
    torch._fused_adam_(
        updates,
        tensors.grads,
        tensors.states[0],
        tensors.states[1],
        [],
        steps if group["bias_correction"] else [STEP] * len(params),
        lr=-1.0,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=0.0,
        eps=group["eps"],
        amsgrad=False,
        maximize=bool(group["maximize"]),
    )
    p_norms, u_norms = yield updates
    ratios = [_trust_of_one(group, *norms) for norms in zip(p_norms.tolist(), u_norms.tolist())]
    if group["decoupled_weight_decay"]:
        torch._foreach_mul_(updates, ratios)
        torch._foreach_add_(updates, params, alpha=group["weight_decay"])
        ratios = [1.0] * len(params)
    for p, update, ratio in zip(params, updates, ratios):
        p.add_(update, alpha=-lr * ratio)
    return True
