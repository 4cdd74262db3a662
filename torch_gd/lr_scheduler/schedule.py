"""From a closed-form function to a `torch.optim.lr_scheduler.LRScheduler`: warm-up, composition, state."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from . import functions
from .checks import fraction, steps_of

Number: TypeAlias = float | Tensor


@dataclass(frozen=True)
class Warmup:
    r"""The warm-up that any schedule may begin with: a factor that climbs from `start` to 1.

    With p the part of the warm-up that is done, :math:`s + (1 - s) w(p)`, where w(p) is p ("linear", Goyal et al.
    2017), :math:`(1 - \cos \pi p) / 2` ("cosine"), :math:`1 - \sqrt{1 - p}` ("1-sqrt"); or :math:`s^{1 - p}`
    ("exponential"), or s until the last step ("constant").

    Args:
        length: an int, steps; or a float in [0, 1], a fraction of the run. Default: 0, no warm-up.
        kind: "linear", "cosine", "exponential", "constant" or "1-sqrt". Default: "linear".
        start: the factor s at step 0, in [0, 1]; "exponential" and "constant" need one above 0. Default: 0.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> scheduler = CosineSchedule(optimizer, total_steps=1000, warmup=Warmup(0.05, "cosine", start=0.01))
        >>> scheduler = CosineSchedule(optimizer, total_steps=1000, warmup=50)  # linear, from 0
    """

    length: int | float = 0
    kind: str = "linear"
    start: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in functions.WARMUPS:
            raise ValueError(f"Invalid warm-up kind: {self.kind!r}; it must be one of {', '.join(functions.WARMUPS)}")
        fraction("warm-up start", self.start)
        if self.start == 0 and self.kind in ("exponential", "constant"):
            raise ValueError(f"Invalid warm-up start: {self.start}; a {self.kind} warm-up never leaves 0")
        steps_of("warmup", self.length, total_steps=1 if isinstance(self.length, float) else None)


class Schedule(LRScheduler):
    r"""A closed-form schedule: the learning rate at step n is the group's base learning rate × `factor(n)`.

    .. math:: f(n) = w(n) \, d(0) \text{ for } n < W, \qquad f(n) = d(\min(n, T) - W) \text{ from there on}

    for a warm-up w of W steps, a decay d whose clock starts when the warm-up ends, and a run of T steps.

    `step()` multiplies, as torch's chainable schedulers do: what others have made of the learning rate since this one's
    last step is kept, as a factor, so that it may stand in a `ChainedScheduler` or beside a hand that edits
    `group["lr"]`. Where nobody else touched it that factor is exactly 1, and the value that of the closed form, without
    drift. While its own factor is exactly 0 it cannot see what others multiply by: a schedule that starts from 0 stands
    first in a chain, or starts a little above. `step(n)`, a milestone of `SequentialLR` and resuming by `last_epoch`
    set the closed form and forget the others. A tensor learning rate is filled in place and never read by the host.

    Args:
        optimizer: any `torch.optim.Optimizer`; its groups' learning rates are the base ones.
        decay: the factor at each step after the warm-up.
        total_steps: length of the run in steps, warm-up included; the last value is held from there on. Default: None,
            no end.
        warmup: steps (int), a fraction of the run (float), or a `Warmup`. Default: 0.
        last_epoch: the last step done, to resume after it. Default: -1, a new run.

    Raises:
        ValueError: an argument out of range, or a warm-up longer than the run.

    Example:
        >>> scheduler = Schedule(optimizer, lambda step: 0.99**step, warmup=100)
        >>> optimizer.step(); scheduler.step()
    """

    def __init__(
        self,
        optimizer: Optimizer,
        decay: Callable[[int], float],
        total_steps: int | None = None,
        warmup: int | float | Warmup = 0,
        last_epoch: int = -1,
    ) -> None:
        self.warmup = warmup if isinstance(warmup, Warmup) else Warmup(warmup)
        self.warmup_steps = steps_of("warmup", self.warmup.length, total_steps)
        self.total_steps = total_steps
        self.decay = decay
        if isinstance(optimizer, Optimizer):  # else torch raises
            self._others: list[Number] = [1.0] * len(optimizer.param_groups)
        super().__init__(optimizer, last_epoch)

    def factor(self, step: int) -> float:
        """What the base learning rate is multiplied by at a step; `ValueError` for a step below 0."""
        if step < 0:
            raise ValueError(f"Invalid step: {step}; steps count from 0")
        if step < self.warmup_steps:
            climb = functions.warmup(step, self.warmup_steps, self.warmup.kind, self.warmup.start)
            return float(climb * self.decay(0))
        if self.total_steps is not None:
            step = min(step, self.total_steps)
        return float(self.decay(step - self.warmup_steps))  # a NumPy number would end up in checkpoints

    def get_lr(self) -> list[Number]:
        """The learning rate of each group at `last_epoch`, times what others have made of it since the step before."""
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
            # After training, a learning rate of 0 is where an earlier schedule ended; before it, another in the chain
            # starts there.
            before = 0.0 if getattr(self.optimizer, "_opt_called", False) else 1.0
        self._others = [
            _by_others(group["lr"], base, before, others)
            for group, base, others in zip(groups, self.base_lrs, self._others)
        ]
        now = self.factor(step)
        return [base * now * others for base, others in zip(self.base_lrs, self._others)]

    def _get_closed_form_lr(self) -> list[Number]:
        """Torch's name for what `step(n)` and `SequentialLR` set: no other scheduler counts."""
        self._others = [1.0] * len(self.base_lrs)
        now = self.factor(self.last_epoch)
        return [base * now for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Where the run stands. The shape comes from the constructor, so that a resumed run may be made longer."""
        return {name: self.__dict__[name] for name in _STATE}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up a run: load the optimizer's state as well, since that holds the learning rates.

        The state of torch's `LambdaLR`, which is what transformers' `get_scheduler` returns, is understood too.

        Raises:
            ValueError: a state with another number of groups, or with none of a scheduler's entries.
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


_STATE = ("base_lrs", "last_epoch", "_step_count", "_last_lr", "_others")


def _by_others(lr: Number, base: Number, before: float, remembered: Number) -> Number:
    """What others multiply a learning rate by, seen from a schedule that left it at `base * before`.

    `x / x` is exactly 1. Where this schedule's own factor was 0, a learning rate of 0 says nothing and what was seen
    earlier stands; another value was put there without this schedule's factor.
    """
    own = base * before if before != 0 else base
    if isinstance(lr, Tensor) or isinstance(own, Tensor):
        seen = torch.as_tensor(own) != 0
        if before == 0:
            seen = seen & (torch.as_tensor(lr) != 0)
        return torch.where(seen, lr / own, remembered)
    blind = own == 0 or (before == 0 and lr == 0)
    return remembered if blind else lr / own
