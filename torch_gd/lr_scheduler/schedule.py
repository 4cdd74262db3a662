"""`Schedule`: turn a closed-form function into a `torch.optim.lr_scheduler.LRScheduler`."""

import math
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .._arguments import Described, as_list, as_optimizer, count, real, short
from . import checks, functions
from .right_names import DECAY_FUNCTION_NAMES, RIGHT_NAMES
from .shares import Number, Share, choose, factor_of_others, forget, shares_of, untouched
from .warmup import AnyWarmup, Warmup, warmup_steps


class Schedule(Described, LRScheduler):
    r"""A closed-form schedule: the learning rate at step n is the group's base learning rate times `factor(n)`.

    $$f(n) = w(n) \, d(0) \text{ for } n < W, \qquad f(n) = d(\min(n, T) - W) \text{ from there on}$$

    for a warm-up $w$ of $W$ steps, a decay $d$ that begins when the warm-up ends, and a run of $T$ steps.

    `step()` multiplies, as torch's chainable schedulers do. Whatever other code has made of the learning rate since
    this schedule's last step is kept as a factor, so a schedule may stand in a `ChainedScheduler`, and
    `group["lr"]` may be edited by hand. Where no other code touches the learning rate, this factor is exactly 1 and the
    value is that of the closed form, without drift. While the schedule's own factor is exactly 0, it cannot see what
    others multiply by: put a schedule that starts from 0 first in a chain, or let it start a little above 0.

    A schedule starts from `initial_lr` of the groups, as torch's `LambdaLR` does: the learning rate that they had when
    the first schedule was made. To begin another run with the same optimizer, just make another schedule. One that
    was made before and is not stepped counts only until the first step of another.

    `step(n)`, a milestone of `SequentialLR`, and resuming by `last_epoch` set the value of the closed form and drop the
    factors of others. A tensor learning rate is filled in place, and the host never reads it.

    Args:
        optimizer: any `torch.optim.Optimizer`; the learning rates of its groups are the base learning rates, or their
            `initial_lr` where an earlier schedule has left one.
        decay: a function from the number of steps since the warm-up to a factor.
        total_steps: the length of the run in steps, warm-up included; the last value is held from there on.
            Default: None, a run without an end.
        warmup: an int is a number of steps, a float a fraction of the run; a `Warmup` also says shape and start.
            Default: 0.
        last_epoch: the last step that is done, to resume after it. Default: -1, a new run.

    Raises:
        ValueError: an argument is out of range, or the warm-up is longer than the run.
        TypeError: `optimizer` is not an optimizer, `decay` is not a function, an argument is no number, or one has a
            name that other libraries use; the message says the name to use here.

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
        as_optimizer(optimizer, "it is the first argument")
        if not callable(decay):
            raise TypeError(
                f"decay is {short(decay)}, not a function from the number of steps since the warm-up to a factor"
            )
        self.warmup = warmup if isinstance(warmup, Warmup) else Warmup(warmup)
        self.warmup_steps = warmup_steps(self.warmup, total_steps)
        # accelerate compares it with the number of steps, so a run without an end has a number too.
        self.total_steps = math.inf if total_steps is None else count("total_steps", total_steps)
        self.decay = decay
        self._others: list[Number] = [1.0] * len(optimizer.param_groups)
        self._share = Share([1.0] * len(optimizer.param_groups))
        super().__init__(optimizer, count("last_epoch", last_epoch, least=-1))

    def factor(self, step: float) -> float:
        """Return what the base learning rate is multiplied by at a step.

        Raises:
            ValueError: `step` is below 0.
            TypeError: it is not a number, or `decay` returns something else than a number.
        """
        checks.step(step)
        if step < self.warmup_steps:
            climb = functions.warmup(step, self.warmup_steps, self.warmup.kind, self.warmup.start)
            return climb * self._decayed(0)
        return self._decayed(min(step, self.total_steps) - self.warmup_steps)

    def _decayed(self, step: float) -> float:
        # A NumPy number would end up in checkpoints.
        return real(f"decay({step})", self.decay(step))  # type: ignore[arg-type]  # an int unless it is asked

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
        lrs = [group["lr"] for group in groups]
        self._others = self._others_at_a_step(lrs) if step > 0 else self._others_at_the_start(lrs)
        return self._times_others()

    def _get_closed_form_lr(self) -> list[Number]:
        """Return what `step(n)` and `SequentialLR` set, where no other scheduler counts. The name is torch's."""
        forget(self.optimizer)
        shares_of(self.optimizer).append(self._share)
        self._others = self._share.alone = [1.0] * len(self.base_lrs)
        self._share.stepped = True
        return self._times_others()

    def _times_others(self) -> list[Number]:
        """Return the learning rates at `last_epoch`, and remember the factor that they hold."""
        now = self.factor(self.last_epoch)
        self._share.factors = [now] * len(self.base_lrs)
        return [base * now * others for base, others in zip(self.base_lrs, self._others)]

    def _others_at_the_start(self, lrs: list[Number]) -> list[Number]:
        """Return the factors of others when the schedule is made, or when `SequentialLR` starts it.

        Before training every factor that is there counts, because a chain may be under construction. After training
        there are only those of schedules that have not been stepped yet.
        """
        shares = shares_of(self.optimizer)
        trained = getattr(self.optimizer, "_opt_called", False)
        if self._share in shares or (trained and all(share.stepped for share in shares)):
            forget(self.optimizer)
            others: list[Number] = [1.0] * len(lrs)
            self._share.alone = others
        else:
            others = [factor_of_others(lr, base, 1.0, 1.0) for lr, base in zip(lrs, self.base_lrs)]
            self._share.alone = others
            if shares and not shares[-1].stepped:
                same = untouched(lrs, shares[-1])
                alone = shares[-1].alone + others[len(shares[-1].alone) :]
                self._share.alone = [choose(*three) for three in zip(same, alone, others)]
        shares.append(self._share)
        return others

    def _others_at_a_step(self, lrs: list[Number]) -> list[Number]:
        """Return the factors of others since the last step, without those of schedules that are not stepped."""
        share, shares = self._share, shares_of(self.optimizer)
        others = [factor_of_others(*four) for four in zip(lrs, self.base_lrs, share.factors, self._others)]
        unstepped = [other for other in shares if other is not share and not other.stepped]
        if unstepped:
            same = untouched(lrs, shares[-1])
            others = [choose(*three) for three in zip(same, share.alone, others)]
            for other in unstepped:
                other.factors = [choose(is_same, 1.0, factor) for is_same, factor in zip(same, other.factors)]
                shares.remove(other)
        if share not in shares:
            shares.append(share)
        share.stepped = True
        share.alone = others
        return others

    def _update_lr(self, epoch: int | None = None) -> None:
        """Set the learning rates, and remember them. The name is torch's."""
        super()._update_lr(epoch)
        self._share.left = list(self._last_lr)

    def state_dict(self) -> dict[str, Any]:
        """Return where the run stands. The shape comes from the constructor, so a resumed run may be made longer."""
        return {name: self.__dict__[name] for name in _STATE} | {"factors_in_lr": self._share.factors}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a saved run stands. Load the optimizer's state too, because it holds the learning rates.

        A state of torch's `LambdaLR`, which transformers' `get_scheduler` returns, can be loaded too.

        Raises:
            ValueError: the state is for another number of groups, or is not a scheduler's state.
            TypeError: it is no state, or something in it is no number. In either case nothing has been loaded.
        """
        checks.state(state_dict, "last_epoch", "base_lrs")
        groups = len(self.optimizer.param_groups)
        must = "it must have one for each parameter group"
        if (saved := len(as_list("base_lrs in state_dict", state_dict["base_lrs"], must))) != groups:
            raise ValueError(
                f"Invalid state_dict: its base_lrs are for {saved} parameter groups, the optimizer has {groups}"
            )
        step = state_dict["last_epoch"]
        in_lr = self.factor(step) if step >= 0 else 1.0  # SequentialLR sets a schedule that has not begun to -1
        factors = as_list("factors_in_lr in state_dict", state_dict.get("factors_in_lr", [in_lr] * groups), must)
        self._others = [1.0] * groups
        self._share.factors = factors
        self._share.stepped = step > 0
        self.__dict__.update({name: state_dict[name] for name in _STATE if name in state_dict})
        self._share.alone = self._others

    def _state(self) -> str:
        step = self.__dict__.get("last_epoch", -1)
        return f"step {step}, factor {self.factor(step):.4g}" if step >= 0 else ""


_STATE = ("base_lrs", "last_epoch", "_step_count", "_last_lr", "_others")
