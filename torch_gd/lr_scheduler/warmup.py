"""The warm-up that every schedule may begin with."""

from dataclasses import dataclass
from typing import TypeAlias

from .._arguments import count
from . import functions
from .checks import choice, fraction, steps_of, whole

_KINDS = "an int, a float or a Warmup"


@dataclass(frozen=True)
class Warmup:
    r"""A warm-up: a factor on the learning rate that climbs from `start` to 1.

    With $p$ the part of the warm-up that is done and $s$ the start, the factor is $s + (1 - s) \, w(p)$, where $w(p)$
    is $p$ for "linear" (Goyal et al. 2017), $(1 - \cos \pi p) / 2$ for "cosine" and $1 - \sqrt{1 - p}$ for "1-sqrt".
    For "exponential" it is $s^{1 - p}$; for "constant" it is $s$ until the warm-up ends.

    Args:
        length: an int is a number of steps, a float in [0, 1] a fraction of the run. Default: 0, no warm-up.
        kind: "linear", "cosine", "exponential", "constant" or "1-sqrt". Default: "linear".
        start: the factor at step 0, in [0, 1]; "exponential" and "constant" need one above 0. Default: 0.

    Raises:
        ValueError: an argument is out of range.
        TypeError: `start` is no number.

    Example:
        >>> import torch, torch_gd
        >>> from torch_gd.lr_scheduler import CosineSchedule, Warmup
        >>> optimizer = torch_gd.SGD([torch.ones(2, requires_grad=True)], lr=0.1)
        >>> warmup = Warmup(0.05, "cosine", start=0.01)
        >>> scheduler = CosineSchedule(optimizer, total_steps=1000, warmup=warmup)
        >>> scheduler.factor(0), scheduler.factor(50)
        (0.01, 1.0)
    """

    length: int | float = 0
    kind: str = "linear"
    start: float = 0.0

    def __post_init__(self) -> None:
        choice("warm-up kind", self.kind, functions.WARMUPS)
        if fraction("warm-up start", self.start) == 0 and self.kind in ("exponential", "constant"):
            raise ValueError(f"Invalid warm-up start: {self.start}; with kind={self.kind!r} the warm-up never leaves 0")
        steps_of("warmup", self.length, 1 if whole(self.length) is None else None, _KINDS)


AnyWarmup: TypeAlias = int | float | Warmup
"""What a schedule takes as its warm-up: steps, a fraction of the run, or a `Warmup`."""


def warmup_steps(warmup: AnyWarmup, total_steps: int | None) -> int:
    """Return the number of steps that a warm-up takes."""
    return steps_of("warmup", warmup.length if isinstance(warmup, Warmup) else warmup, total_steps, _KINDS)


def steps_after(warmup: AnyWarmup, total_steps: int) -> int:
    """Return the number of steps that a warm-up leaves of a run."""
    return count("total_steps", total_steps) - warmup_steps(warmup, total_steps)
