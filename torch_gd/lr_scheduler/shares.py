"""What each schedule has put into an optimizer's learning rates, to tell it from what others have put there.

A schedule that is made anew, in place of one that was never stepped, must not keep that one's factor. In a chain, the
factors of all must count. The two look alike until the first step: a schedule that is not stepped is not in the chain.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

Number: TypeAlias = float | Tensor


@dataclass(eq=False)
class Share:
    """What one schedule has put into the learning rates. The lists have an entry for each parameter group."""

    factors: list[Number]
    """The schedule's factor that the learning rate holds now; 1 after another schedule has taken it out."""

    stepped: bool = False
    """Whether the schedule has been stepped since it was made."""

    left: list[Number] = field(default_factory=list)
    """The learning rates that the schedule has written."""

    alone: list[Number] = field(default_factory=list)
    """The factors of others, without those of schedules that were made but never stepped."""

    def take_out(self) -> None:
        """Note that the learning rates no longer hold the schedule's factor."""
        self.factors = [1.0] * len(self.factors)


def shares_of(optimizer: Optimizer) -> list[Share]:
    """Return the shares that the optimizer's learning rates hold, in the order in which the schedules were made."""
    shares: list[Share] = optimizer.__dict__.setdefault("_schedule_shares", [])
    return shares


def forget(optimizer: Optimizer) -> None:
    """Note that the learning rates were set anew, and hold no schedule's factor."""
    shares = shares_of(optimizer)
    for share in shares:
        share.take_out()
    shares.clear()


def untouched(lrs: list[Number], share: Share) -> list[bool | Tensor]:
    """Return for each group whether the learning rate is still what the schedule has left; never reads a tensor."""
    known = [lr == left for lr, left in zip(lrs, share.left)]
    return known + [False] * (len(lrs) - len(known))


def choose(condition: bool | Tensor, yes: Number, no: Number) -> Number:
    """Return one of two numbers. Where the condition is a tensor, nothing is read on the host."""
    if not isinstance(condition, Tensor):
        return yes if condition else no
    if not isinstance(yes, Tensor) and not isinstance(no, Tensor):
        dtype = torch.float32 if condition.device.type == "mps" else torch.float64
        yes = torch.full((), yes, dtype=dtype, device=condition.device)
    return torch.where(condition, yes, no)


def factor_of_others(lr: Number, base: Number, before: Number, remembered: Number) -> Number:
    """Return what others multiply a learning rate by, given that the schedule had left it at `base * before`.

    `x / x` is exactly 1. Where the schedule's own factor was 0, a learning rate of 0 says nothing, so the factor that
    was seen earlier is returned; another learning rate was put there by others, without the schedule's factor.
    """
    own = choose(before != 0, base * before, base)
    if isinstance(lr, Tensor) or isinstance(own, Tensor):
        seen = torch.as_tensor(own != 0) & (torch.as_tensor(before != 0) | torch.as_tensor(lr != 0))
        return choose(seen, lr / own, remembered)
    unseen = own == 0 or (before == 0 and lr == 0)
    return remembered if unseen else lr / own
