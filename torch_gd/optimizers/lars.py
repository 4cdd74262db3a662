"""LARS: SGD whose step is scaled for each tensor."""

from math import inf

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from .._engine import backend
from .._engine.precision import Precision
from .._engine.spec import FusedTensors, Group, LayerStep, LoopTensors, TorchFlags, UpdateSpec
from ..clipping.policies import ClipPolicy
from . import checks
from .base import FusedOptimizer
from .layerwise import adapts, decays, in_one_precision, plus, ratio_or_one, scaled


class LARS(FusedOptimizer):
    r"""LARS (You, Gitman & Ginsburg 2017): SGD whose step is scaled, for each tensor, to the tensor's own norm.

    .. math:: u_t = \eta \frac{\|\theta_{t-1}\|}{\|g_t\| + \lambda \|\theta_{t-1}\| + \epsilon}
              (g_t + \lambda \theta_{t-1}), \quad
              b_t = \mu b_{t-1} + \gamma u_t, \quad \theta_t = \theta_{t-1} - b_t

    Where a norm is 0, the step is :math:`u_t = g_t + \lambda \theta_{t-1}`, without :math:`\eta` and the fraction. With
    a constant learning rate it does not matter whether :math:`\gamma` is inside the momentum, as in the paper, or
    outside, as in `SGD` and timm's `Lars`.

    | whose | options |
    |---|---|
    | the paper's | the defaults |
    | timm's `Lars` | `lr_in_momentum=False, always_adapt=False`, and `momentum` and `weight_decay`, 0 there |
    | apex's `LARC` of SGD | `trust_coeff=0.02, lr_in_momentum=False, trust_clip=True`, unless a gradient is 0 |

    Leave tensors of one dimension, biases and norms, out of decay and scaling by `always_adapt=False` and groups from
    `torch_gd.param_groups_weight_decay`. They then take steps of the whole rate, which must suit them: small networks
    may want a larger `trust_coeff` with a smaller `lr`.

    Args:
        params: parameters, (name, parameter) pairs, or dicts that define groups; of any shape and dense layout.
        lr: learning rate :math:`\gamma`, a number or a one-element tensor. Default: 1.0.
        momentum: :math:`\mu`. Default: 0.9.
        dampening: the new step is weighted by 1 minus this in all buffers but the first. Default: 0.
        weight_decay: :math:`\lambda`, inside the norm as well. Default: 5e-4.
        nesterov: look ahead along the momentum. Default: False.
        trust_coeff: :math:`\eta`. Default: 0.001.
        eps: :math:`\epsilon`. Default: 1e-8.
        lr_in_momentum: False multiplies the momentum by the learning rate, which then acts at once when it changes.
            Default: True.
        always_adapt: False leaves the step as it is in groups without weight decay. Default: True.
        trust_clip: multiply each tensor's step by the smaller of the ratio and :math:`\gamma`, as LARC does, instead of
            by their product. Default: False.
        maximize: ascend instead. Default: False.
        foreach: True or False takes the implementation on torch's operators. Default: None, the fastest there is.
        differentiable: let autograd see the step; torch's operators. Default: False.
        fused: True insists on a fused implementation and takes part in `torch.amp.GradScaler`'s unscaling; False takes
            torch's operators. Default: None, the fastest there is.
        clip: a policy of `torch_gd.clipping`, or a number for `ClipByGlobalNorm`. Default: None.
        l1: decoupled L1 penalty, a soft threshold of lr · l1 after each update. Default: 0.
        precision: a `torch_gd.Precision`, or a number of bytes a parameter; not in torch. Default: None.

    Raises:
        ValueError: an argument out of range, or `nesterov` without momentum or with dampening.
        RuntimeError: `fused` together with `differentiable` or `foreach`, or for a parameter that no fused
            implementation serves.
        TypeError: `clip` is neither a policy nor a number.

    Example:
        >>> import torch, torch_gd
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch_gd.LARS(torch_gd.param_groups_weight_decay(model, 5e-4), lr=1.0, always_adapt=False)
        >>> model(torch.ones(2, 3)).sum().backward()
        >>> optimizer.step()
    """

    @checks.right_names
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        momentum: float = 0.9,
        dampening: float = 0,
        weight_decay: float = 5e-4,
        nesterov: bool = False,
        trust_coeff: float = 0.001,
        eps: float = 1e-8,
        *,
        lr_in_momentum: bool = True,
        always_adapt: bool = True,
        trust_clip: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        clip: ClipPolicy | float | None = None,
        l1: float = 0.0,
        precision: Precision | float | str | None = None,
    ) -> None:
        checks.learning_rate(lr)
        checks.not_negative(momentum=momentum, weight_decay=weight_decay, trust_coeff=trust_coeff, eps=eps)
        checks.any_number(dampening=dampening)
        checks.nesterov(nesterov, momentum, dampening)
        checks.one_implementation(foreach, fused, differentiable)
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "trust_coeff": trust_coeff,
            "eps": eps,
            "lr_in_momentum": lr_in_momentum,
            "always_adapt": always_adapt,
            "trust_clip": trust_clip,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults, clip, l1, precision)

    @staticmethod
    def spec(group: Group) -> UpdateSpec:
        """Return the rule."""
        rules, plain = backend.layer_rules, group["momentum"] == 0
        return UpdateSpec(
            rule=rules and (rules.LARS if plain else rules.LARS_MOMENTUM),
            hyperparameters=(
                *("lr", "momentum", "dampening", "weight_decay", "trust_coeff", "eps"),
                *("lr_in_momentum", "always_adapt", "trust_clip"),
            ),
            state_names=() if plain else ("momentum_buffer",),
            options=() if plain else (group["nesterov"],),
            fused_cpu=None if plain or group["nesterov"] else _fused_cpu,
            fused_cpu_dtypes=(torch.float32, torch.float64),
            torch_fuses=False,
            refuses_sparse="LARS does not support sparse gradients",
            layerwise="gradient",
        )

    @staticmethod
    def torch_step(group: Group, tensors: LoopTensors, flags: TorchFlags) -> LayerStep:
        """Update on torch's operators."""
        momentum, first = group["momentum"], False
        buffers: list[Tensor] = []
        if momentum != 0:
            first = tensors.states[0].get("momentum_buffer") is None
            for p, state in zip(tensors.params, tensors.states):
                if first:
                    state["momentum_buffer"] = torch.zeros_like(p)
                buffers.append(state["momentum_buffer"])
        with in_one_precision(tensors.grads, tensors.params, buffers) as (grads, params, buffers):
            if group["maximize"]:
                grads = list(torch._foreach_neg(grads))
            p_norms, g_norms = yield grads
            steps = plus(grads, params, group["weight_decay"]) if decays(group) else grads
            steps = scaled(steps, _trust(group, p_norms, g_norms))
            if momentum != 0:
                buffers[:] = plus(
                    torch._foreach_mul(buffers, momentum), steps, 1.0 if first else 1 - group["dampening"]
                )
                steps = plus(steps, buffers, momentum) if group["nesterov"] else buffers
            outside = 1.0 if group["lr_in_momentum"] else group["lr"]
            params[:] = torch._foreach_sub(params, torch._foreach_mul(steps, outside))


def _fused_cpu(group: Group, tensors: FusedTensors) -> LayerStep:
    """Add to the momentum what the step is made of, so that no memory is taken for the step itself."""
    p_norms, g_norms = yield tensors.grads
    momentum, decay = group["momentum"], group["weight_decay"]
    sign = -1 if group["maximize"] else 1
    outside = 1.0 if group["lr_in_momentum"] else float(group["lr"])
    norms = zip(p_norms.tolist(), g_norms.tolist())
    for p, g, buffer, (p_norm, g_norm) in zip(tensors.params, tensors.grads, tensors.states[0], norms):
        share = (1 - group["dampening"]) * _trust_of_one(group, p_norm, g_norm)
        buffer.mul_(momentum).add_(g, alpha=sign * share)
        if decay != 0:
            buffer.add_(p, alpha=share * decay)
        p.add_(buffer, alpha=-outside)
    return True


def _trust(group: Group, p_norms: Tensor, g_norms: Tensor) -> Tensor:
    """Return what each tensor's step is multiplied by before momentum."""
    lr: float | Tensor = group["lr"]
    ratios = group["trust_coeff"] * p_norms / (g_norms + group["weight_decay"] * p_norms + group["eps"])
    ratios = ratio_or_one(group, p_norms, g_norms, ratios)
    if group["trust_clip"] and adapts(group):
        ratios = (ratios / lr).clamp(max=1.0)
    return ratios * lr if group["lr_in_momentum"] else ratios


def _trust_of_one(group: Group, p_norm: float, g_norm: float) -> float:
    """Return what `_trust` does, of one tensor, in a fraction of the time that its operators take for a few tensors."""
    lr, size = float(group["lr"]), g_norm + group["weight_decay"] * p_norm + group["eps"]
    ratio = group["trust_coeff"] * p_norm / size if min(p_norm, g_norm) > 0 and adapts(group) else 1.0
    ratio = ratio if ratio < inf else 1.0
    if group["trust_clip"] and adapts(group):
        ratio = min(ratio / lr, 1.0) if lr != 0 else 1.0
    return ratio * lr if group["lr_in_momentum"] else ratio
