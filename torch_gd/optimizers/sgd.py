"""Stochastic gradient descent, with momentum or Nesterov's."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from torch.optim.sgd import sgd

from .._engine import backend
from .._engine.precision import Precision
from .._engine.spec import FusedTensors, Group, LoopTensors, TorchFlags, UpdateSpec, decayed_dtype
from ..clipping.policies import ClipPolicy
from . import checks
from .base import FusedOptimizer

LARGE, SMALL = 1 << 18, 32  # elements a tensor, from which on `_one_add_is_faster`


class SGD(FusedOptimizer):
    r"""Stochastic gradient descent (Robbins & Monro 1951; momentum: Polyak 1964), as `torch.optim.SGD`.

    .. math:: b_t = \mu b_{t-1} + (1 - \tau)(g_t + \lambda \theta_{t-1}), \quad \theta_t = \theta_{t-1} - \gamma b_t

    with :math:`b_1 = g_1 + \lambda \theta_0`; with `nesterov`, :math:`g_t + \lambda \theta_{t-1} + \mu b_t` takes the
    place of :math:`b_t` in the update; without momentum, the bare gradient does.

    Args:
        params: parameters, (name, parameter) pairs, or dicts that define groups; of any shape and dense layout.
        lr: learning rate, a number or a one-element tensor. Default: 1e-3.
        momentum: :math:`\mu`. Default: 0.
        dampening: :math:`\tau`. Default: 0.
        weight_decay: L2 penalty :math:`\lambda`. Default: 0.
        nesterov: look ahead along the momentum. Default: False.
        maximize: ascend instead. Default: False.
        foreach: True or False takes torch's foreach or for-loop implementation. Default: None, the fastest there is.
        differentiable: let autograd see the step; torch's for-loop implementation. Default: False.
        fused: True insists on a fused implementation and takes part in `torch.amp.GradScaler`'s unscaling; False takes
            torch's. Default: None, the fastest there is.
        clip: a policy of `torch_gd.clipping`, or a number for `ClipByGlobalNorm`; not in torch. Default: None.
        l1: decoupled L1 penalty, a soft threshold of lr · l1 after each update; not in torch. Default: 0.
        precision: a `torch_gd.Precision`, or a number of bytes a parameter; not in torch. Default: None.

    Raises:
        ValueError: an argument out of range, or `nesterov` without momentum or with dampening.
        RuntimeError: `fused` together with `differentiable` or `foreach`, or for a parameter that no fused
            implementation serves.
        TypeError: `clip` is neither a policy nor a number.

    Example:
        >>> import torch, torch_gd
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch_gd.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> model(torch.ones(2, 3)).sum().backward()
        >>> optimizer.step()
    """

    _older_checkpoints: ClassVar[Group] = FusedOptimizer._older_checkpoints | {"nesterov": False, "fused": None}

    @checks.right_names
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        clip: ClipPolicy | float | None = None,
        l1: float = 0.0,
        precision: Precision | float | str | None = None,
    ) -> None:
        checks.learning_rate(lr)
        checks.not_negative(momentum=momentum, weight_decay=weight_decay)
        checks.any_number(dampening=dampening)
        checks.nesterov(nesterov, momentum, dampening)
        checks.one_implementation(foreach, fused, differentiable)
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults, clip, l1, precision)

    @staticmethod
    def spec(group: Group) -> UpdateSpec:
        """Return the rule and what torch offers for it."""
        plain = group["momentum"] == 0
        return UpdateSpec(
            rule=backend.rules and (backend.rules.SGD if plain else backend.rules.MOMENTUM),
            hyperparameters=("lr", "weight_decay") if plain else ("lr", "weight_decay", "momentum", "dampening"),
            state_names=() if plain else ("momentum_buffer",),
            options=() if plain else (group["nesterov"],),
            fused_cpu=fused_cpu,
            # torch's fused CPU kernel leaves whole vectors of half-precision elements as they were (2.11 and 2.13).
            fused_cpu_dtypes=(torch.float32, torch.float64),
            refuses_sparse="",
            lazy_dtype=decayed_dtype,
        )

    @staticmethod
    def torch_step(group: Group, tensors: LoopTensors, flags: TorchFlags) -> None:
        """Call torch's functional implementation."""
        buffers: list[Tensor | None] = [state.get("momentum_buffer") for state in tensors.states]
        sgd(
            tensors.params,
            tensors.grads,
            buffers if group["momentum"] != 0 else [],
            has_sparse_grad=any(g.is_sparse for g in tensors.grads),
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
            **flags._asdict(),
        )
        if group["momentum"] != 0:
            for state, buffer in zip(tensors.states, buffers):
                state["momentum_buffer"] = buffer


def fused_cpu(group: Group, tensors: FusedTensors) -> bool:
    """Update by torch's fused kernel or by one `add_`; return whether autograd has seen the parameters change."""
    lr = float(group["lr"])
    if _one_add_is_faster(group, len(tensors.params), tensors.numel):
        if len(tensors.params) == 1:
            tensors.params[0].add_(tensors.grads[0], alpha=-lr)
        else:
            torch._foreach_add_(tensors.params, tensors.grads, alpha=-lr)
        return True
    torch._fused_sgd_(
        tensors.params,
        tensors.grads,
        *tensors.states or ([],),
        weight_decay=group["weight_decay"],
        momentum=group["momentum"],
        lr=lr,
        dampening=group["dampening"] if group["momentum"] else 0.0,  # else not read, as in torch
        nesterov=bool(group["nesterov"]),
        maximize=bool(group["maximize"]),
        is_first_step=False,
    )
    return False


def _one_add_is_faster(group: Group, count: int, numel: int) -> bool:
    """Return whether one `add_` is faster than torch's fused kernel, for SGD without momentum and decay.

    | tensors | `add_` is faster |
    |---|---|
    | one | always |
    | several, large | always |
    | several, small | with several threads, which the fused kernel starts for each tensor |
    """
    bare = group["momentum"] == 0 and group["weight_decay"] == 0 and not group["maximize"]
    each = numel / count
    return bare and (count == 1 or each >= LARGE or (each >= SMALL and torch.get_num_threads() > 1))
