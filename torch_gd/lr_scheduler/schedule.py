"""`Schedule`: turn a closed-form function into a `torch.optim.lr_scheduler.LRScheduler`."""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .._arguments import Described
from . import functions
from .right_names import DECAY_FUNCTION_NAMES, RIGHT_NAMES
from .warmup import AnyWarmup, Warmup, warmup_steps

Number: TypeAlias = float | Tensor


class Schedule(Described, LRScheduler):
    r"""A closed-form schedule: the learning rate at step n is the group's base learning rate times `factor(n)`.

    $$f(n) = w(n) \, d(0) \text{ for } n < W, \qquad f(n) = d(\min(n, T) - W) \text{ from there on}$$

    for a warm-up $w$ of $W$ steps, a decay $d$ that begins when the warm-up ends, and a run of $T$ steps.

    `step()` multiplies, as torch's chainable schedulers do. Whatever other code has made of the learning rate since
    this schedule's last step is kept as a factor, so a schedule may stand in a `ChainedScheduler`, and
    `group["lr"]` may be edited by hand. Where no other code touches the learning rate, this factor is exactly 1 and the
    value is that of the closed form, without drift. While the schedule's own factor is exactly 0, it cannot see what
    others multiply by: put a schedule that starts from 0 first in a chain, or let it start a little above 0.

    `step(n)`, a milestone of `SequentialLR`, and resuming by `last_epoch` set the value of the closed form and drop the
    factors of others. A tensor learning rate is filled in place, and the host never reads it.

    Args:
        optimizer: any `torch.optim.Optimizer`; the learning rates of its groups are the base learning rates.
        decay: a function from the number of steps since the warm-up to a factor.
        total_steps: the length of the run in steps, warm-up included; the last value is held from there on.
            Default: None, a run without an end.
        warmup: an int is a number of steps, a float a fraction of the run; a `Warmup` also says shape and start.
            Default: 0.
        last_epoch: the last step that is done, to resume after it. Default: -1, a new run.

    Raises:
        ValueError: an argument is out of range, or the warm-up is longer than the run.
        TypeError: `optimizer` is not an optimizer, or an argument has a name that other libraries use; the message
            says the name to use here.

    Example:
        >>> import torch, torch_gd
        >>> weight = torch.ones(2, requires_grad=True)
        >>> optimizer = torch_gd.SGD([weight], lr=0.1)
        >>> scheduler = torch_gd.lr_scheduler.Schedule(optimizer, lambda step: 0.5**step, warmup=2)
        >>> rates = []
        >>> for _ in range(5):
        ...     optimizer.zero_grad()
        ...     weight.square().sum().backward()
        ...     optimizer.step()
        ...     rates.append(scheduler.get_last_lr()[0])
        ...     scheduler.step()
        >>> rates
        [0.0, 0.05, 0.1, 0.05, 0.025]
    """

    _right_names = RIGHT_NAMES | DECAY_FUNCTION_NAMES

    def __init__(
        self,
        optimizer: Optimizer,
        decay: Callable[[int], float],
        total_steps: int | None = None,
        warmup: AnyWarmup = 0,
        last_epoch: int = -1,
    ) -> None:
        self.warmup = warmup if isinstance(warmup, Warmup) else Warmup(warmup)
        self.warmup_steps = warmup_steps(self.warmup, total_steps)
        self.total_steps = total_steps
        self.decay = decay
        if isinstance(optimizer, Optimizer):  # torch raises for anything else
            self._others: list[Number] = [1.0] * len(optimizer.param_groups)
        super().__init__(optimizer, last_epoch)

    def factor(self, step: int) -> float:
        """Return what the base learning rate is multiplied by at a step.

        Raises:
            ValueError: `step` is below 0.
        """
        if step < 0:
            raise ValueError(f"Invalid step: {step}; steps count from 0")
        if step < self.warmup_steps:
            climb = functions.warmup(step, self.warmup_steps, self.warmup.kind, self.warmup.start)
            return float(climb * self.decay(0))
        if self.total_steps is not None:
            step = min(step, self.total_steps)
        return float(self.decay(step - self.warmup_steps))  # a NumPy number would end up in checkpoints

    def get_lr(self) -> list[Number]:
        """Return each group's learning rate at `last_epoch`, times the factors of others since the last step."""
        step, groups = self.last_epoch, self.optimizer.param_groups
        if len(groups) != len(self.base_lrs):
            raise RuntimeError(
                f"the optimizer has {len(groups)} parameter groups but {type(self).__name__} was made for "
                f"{len(self.base_lrs)}; make the schedule after add_param_group()"
            )
        if self._is_initial and step > 0:
            return self._get_closed_form_lr()
        if step > 0:
            before = self.factor(step - 1)
        else:
            # A learning rate of 0 after training is where an earlier schedule ended; a learning rate of 0 before any
            # training is where another schedule in the chain starts.
            before = 0.0 if getattr(self.optimizer, "_opt_called", False) else 1.0
        self._others = [
            _factor_of_others(group["lr"], base, before, others)
            for group, base, others in zip(groups, self.base_lrs, self._others)
        ]
        now = self.factor(step)
        return [base * now * others for base, others in zip(self.base_lrs, self._others)]

    def _get_closed_form_lr(self) -> list[Number]:
        """Return what `step(n)` and `SequentialLR` set, where no other scheduler counts. The name is torch's."""
        self._others = [1.0] * len(self.base_lrs)
        now = self.factor(self.last_epoch)
        return [base * now for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Return where the run stands. The shape comes from the constructor, so a resumed run may be made longer."""
        return {name: self.__dict__[name] for name in _STATE}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a saved run stands. Load the optimizer's state too, because it holds the learning rates.

        A state of torch's `LambdaLR`, which transformers' `get_scheduler` returns, can be loaded too.

        Raises:
            ValueError: the state is for another number of groups, or is not a scheduler's state.
        """
        if "last_epoch" not in state_dict or "base_lrs" not in state_dict:
            raise ValueError("Invalid state_dict: a scheduler's has `last_epoch` and `base_lrs`")
        groups = len(self.optimizer.param_groups)
        if len(state_dict["base_lrs"]) != groups:
            raise ValueError(
                f"Invalid state_dict: its base_lrs are for {len(state_dict['base_lrs'])} parameter groups, "
                f"the optimizer has {groups}"
            )
        self._others = [1.0] * groups
        self.__dict__.update({name: state_dict[name] for name in _STATE if name in state_dict})

    def _state(self) -> str:
        step = self.__dict__.get("last_epoch", -1)
        return f"step {step}, factor {self.factor(step):.4g}" if step >= 0 else ""


_STATE = ("base_lrs", "last_epoch", "_step_count", "_last_lr", "_others")


def _factor_of_others(lr: Number, base: Number, before: float, remembered: Number) -> Number:
    """Return what others multiply a learning rate by, given that the schedule had left it at `base * before`.

    `x / x` is exactly 1. Where the schedule's own factor was 0, a learning rate of 0 says nothing, so the factor that
    was seen earlier is returned; another learning rate was put there by others, without the schedule's factor.
    """
    own = base * before if before != 0 else base
    if isinstance(lr, Tensor) or isinstance(own, Tensor):
        seen = torch.as_tensor(own) != 0
        if before == 0:
            seen = seen & (torch.as_tensor(lr) != 0)
        return torch.where(seen, lr / own, remembered)
    unseen = own == 0 or (before == 0 and lr == 0)
    return remembered if unseen else lr / own
