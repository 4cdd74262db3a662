"""Adagrad."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.optim.adagrad import adagrad
from torch.optim.optimizer import ParamsT

from .._engine import backend
from .._engine.counters import join_counters
from .._engine.precision import Precision
from .._engine.spec import FusedTensors, Group, LoopTensors, State, TorchFlags, UpdateSpec, new_step_counter
from ..clipping.policies import ClipPolicy
from . import checks
from .base import FusedOptimizer


class Adagrad(FusedOptimizer):
    r"""Adagrad (Duchi, Hazan & Singer 2011), as `torch.optim.Adagrad`.

    .. math:: s_t = s_{t-1} + g_t^2, \quad
              \theta_t = \theta_{t-1} - \frac{\gamma}{1 + (t - 1) \eta} \frac{g_t}{\sqrt{s_t} + \epsilon}

    Args:
        params: parameters, (name, parameter) pairs, or dicts that define groups; of any shape and dense layout.
        lr: learning rate, a number or a one-element tensor. Default: 1e-2.
        lr_decay: :math:`\eta`. Default: 0.
        weight_decay: L2 penalty, added to the gradient. Default: 0.
        initial_accumulator_value: :math:`s_0`. Default: 0.
        eps: :math:`\epsilon`. Default: 1e-10.
        foreach: True or False takes torch's foreach or for-loop implementation. Default: None, the fastest there is.
        maximize: ascend instead. Default: False.
        differentiable: let autograd see the step; torch's for-loop implementation. Default: False.
        fused: True insists on a fused implementation and takes part in `torch.amp.GradScaler`'s unscaling; False takes
            torch's. Default: None, the fastest there is.
        clip: a policy of `torch_gd.clipping`, or a number for `ClipByGlobalNorm`; not in torch. Default: None.
        l1: decoupled L1 penalty, a soft threshold of lr · l1 after each update; not in torch. Default: 0.
        precision: a `torch_gd.Precision`, or a number of bytes a parameter; not in torch. Default: None.

    Raises:
        ValueError: an argument out of range.
        RuntimeError: `fused` together with `differentiable` or `foreach`, or for a parameter that no fused
            implementation serves.
        TypeError: `clip` is neither a policy nor a number.

    Example:
        >>> import torch, torch_gd
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch_gd.Adagrad(model.parameters(), lr=0.01)
        >>> model(torch.ones(2, 3)).sum().backward()
        >>> optimizer.step()
    """

    _older_checkpoints: ClassVar[Group] = FusedOptimizer._older_checkpoints | {"fused": None}

    @checks.right_names
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        clip: ClipPolicy | float | None = None,
        l1: float = 0.0,
        precision: Precision | float | str | None = None,
    ) -> None:
        checks.learning_rate(lr)
        checks.not_negative(
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
        )
        checks.fill_value(initial_accumulator_value=initial_accumulator_value)
        checks.one_implementation(foreach, fused, differentiable)
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "eps": eps,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults, clip, l1, precision)
        for group in self.param_groups:
            # A group's own initial value is not used, as in torch.
            start = {**group, "initial_accumulator_value": initial_accumulator_value}
            for p in group["params"]:
                self.state[p] = self.init_state(start, p)
        join_counters(self.state.values())

    @staticmethod
    def spec(group: Group) -> UpdateSpec:
        """Return the rule and what torch offers for it."""
        decays = group["weight_decay"] != 0
        return UpdateSpec(
            rule=backend.rules and backend.rules.ADAGRAD,
            hyperparameters=("lr", "lr_decay", "weight_decay", "eps"),
            state_names=("sum",),
            non_negative=("sum",),
            fused_cpu=_fused_cpu,
            counts_steps=True,
            refuses_sparse="weight_decay option is not compatible with sparse gradients" if decays else "",
        )

    @staticmethod
    def init_state(group: Group, p: Tensor) -> State:
        """Return the state of a parameter that has none."""
        value = group["initial_accumulator_value"]
        start = complex(value, value) if p.is_complex() else value
        sums = torch.full_like(p, start, memory_format=torch.preserve_format)
        return {"step": new_step_counter(group, p), "sum": sums}

    @staticmethod
    def torch_step(group: Group, tensors: LoopTensors, flags: TorchFlags) -> None:
        """Call torch's functional implementation."""
        adagrad(
            tensors.params,
            tensors.grads,
            [state["sum"] for state in tensors.states],
            [state["step"] for state in tensors.states],
            has_sparse_grad=any(g.is_sparse for g in tensors.grads),
            differentiable=group["differentiable"],
            has_complex=any(p.is_complex() for p in tensors.params),
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            lr_decay=group["lr_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
            **flags._asdict(),
        )

    def share_memory(self) -> None:
        """Move the sums into shared memory, as `torch.optim.Adagrad.share_memory`."""
        for state in self.state.values():
            state["sum"].share_memory_()


def _fused_cpu(group: Group, tensors: FusedTensors) -> bool:
    torch._fused_adagrad_(
        tensors.params,
        tensors.grads,
        tensors.states[0],
        tensors.steps,
        lr=float(group["lr"]),
        lr_decay=group["lr_decay"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=bool(group["maximize"]),
    )
    return False
