"""Schedules that go by stages: restarts, drops, and a plateau with a decay at its end."""

from collections.abc import Sequence
from functools import partial

from torch.optim import Optimizer

from .._arguments import count, number, short
from . import checks, functions
from .right_names import DECAY_LENGTH_NAMES, RIGHT_NAMES
from .schedule import Schedule
from .warmup import AnyWarmup, steps_after, warmup_steps


class CosineRestartsSchedule(Schedule):
    r"""Cosine annealing with warm restarts (SGDR, Loshchilov & Hutter 2017), with peaks that may shrink.

    $$d(n) = f + (1 - f) \, \rho^i (1 + \cos(\pi t / T_i)) / 2, \quad T_i = m^i T_0$$

    at step $t$ of cycle $i$. A run does not end with a restart: if its last step would be one, it is at the floor.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        first_cycle: the length $T_0$ of the first cycle, in steps.
        cycle_mult: $m$, an int. Default: 1, cycles of equal length.
        peak_decay: $\rho$, in (0, 1]. Default: 1.
        floor: the factor $f$ that each cycle comes down to, in [0, 1]. Default: 0.
        total_steps: the length of the run in steps, warm-up included. Default: None, cycles without an end.
        warmup, last_epoch: as in `Schedule`.

    Example:
        >>> import torch, torch_gd
        >>> optimizer = torch_gd.SGD([torch.ones(2, requires_grad=True)], lr=0.1)
        >>> scheduler = torch_gd.lr_scheduler.CosineRestartsSchedule(optimizer, first_cycle=100, cycle_mult=2)
        >>> [round(scheduler.factor(step), 3) for step in (0, 50, 100, 200, 300)]
        [1.0, 0.5, 1.0, 0.5, 1.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        first_cycle: int,
        cycle_mult: int = 1,
        peak_decay: float = 1.0,
        floor: float = 0.0,
        total_steps: int | None = None,
        warmup: AnyWarmup = 0,
        last_epoch: int = -1,
    ) -> None:
        decay = partial(
            functions.cosine_restarts,
            first_cycle=count("first_cycle", first_cycle),
            cycle_mult=count("cycle_mult", cycle_mult),
            peak_decay=checks.fraction("peak_decay", number("peak_decay", peak_decay, above_zero=True)),
            floor=checks.floor(floor),
            steps=None if total_steps is None else steps_after(warmup, total_steps),
        )
        super().__init__(optimizer, decay, total_steps, warmup, last_epoch)


class StepSchedule(Schedule):
    r"""Drops at equal distances: $d(n) = \gamma^{\lfloor n / s \rfloor}$.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        step_size: the number $s$ of steps from one drop to the next, counted from the end of the warm-up.
        gamma: the factor $\gamma$ of each drop, in (0, 1]. Default: 0.1.
        total_steps: the length of the run in steps, warm-up included. Default: None, a run without an end.
        warmup, last_epoch: as in `Schedule`.

    Example:
        >>> import torch, torch_gd
        >>> optimizer = torch_gd.SGD([torch.ones(2, requires_grad=True)], lr=0.1)
        >>> scheduler = torch_gd.lr_scheduler.StepSchedule(optimizer, step_size=300, gamma=0.5, warmup=50)
        >>> [scheduler.factor(step) for step in (50, 349, 350, 650)]
        [1.0, 1.0, 0.5, 0.25]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        step_size: int,
        gamma: float = 0.1,
        total_steps: int | None = None,
        warmup: AnyWarmup = 0,
        last_epoch: int = -1,
    ) -> None:
        decay = partial(functions.stairs, step_size=count("step_size", step_size), gamma=checks.gamma(gamma))
        super().__init__(optimizer, decay, total_steps, warmup, last_epoch)


class MultiStepSchedule(Schedule):
    r"""Drops at milestones: $d(n) = \gamma^k$ after $k$ of them.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        milestones: the steps of the drops, counted from the end of the warm-up, in rising order.
        gamma: the factor $\gamma$ of each drop, in (0, 1]. Default: 0.1.
        total_steps: the length of the run in steps, warm-up included. Default: None, a run without an end.
        warmup, last_epoch: as in `Schedule`.

    Raises:
        ValueError: the milestones do not rise, the run never reaches one of them, or as in `Schedule`.
        TypeError: `milestones` is not a sequence.

    Example:
        >>> import torch, torch_gd
        >>> optimizer = torch_gd.SGD([torch.ones(2, requires_grad=True)], lr=0.1)
        >>> scheduler = torch_gd.lr_scheduler.MultiStepSchedule(optimizer, milestones=[300, 600], gamma=0.5)
        >>> [scheduler.factor(step) for step in (299, 300, 600)]
        [1.0, 0.5, 0.25]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Sequence[int],
        gamma: float = 0.1,
        total_steps: int | None = None,
        warmup: AnyWarmup = 0,
        last_epoch: int = -1,
    ) -> None:
        try:
            given = list(milestones)
        except TypeError:
            raise TypeError(
                f"milestones is {short(milestones)}, not a sequence of steps; it comes after the optimizer"
            ) from None
        steps = tuple(count(f"milestones[{i}]", milestone) for i, milestone in enumerate(given))
        if list(steps) != sorted(set(steps)):
            raise ValueError(f"Invalid milestones: {list(steps)}; they must rise from one to the next")
        if total_steps is not None and steps and steps[-1] > steps_after(warmup, total_steps):
            raise ValueError(
                f"Invalid milestones: {steps[-1]} is never reached; the run has {steps_after(warmup, total_steps)} "
                "steps after its warm-up"
            )
        decay = partial(functions.multi_step, milestones=steps, gamma=checks.gamma(gamma))
        super().__init__(optimizer, decay, total_steps, warmup, last_epoch)


class WarmupStableDecaySchedule(Schedule):
    r"""Warm-up, a plateau, and a short decay at the end (Hu et al. 2024; Hägele et al. 2024).

    The decay goes from 1 to `floor`. With $p$ the part of it that is done, its height is $1 - p$ for "linear",
    $(1 + \cos \pi p) / 2$ for "cosine", $1 - \sqrt{p}$ for "1-sqrt" (the choice of Hägele et al.) and $\sqrt{1 - p}$
    for "sqrt".

    Args:
        optimizer: any `torch.optim.Optimizer`.
        total_steps: the length of the run in steps: warm-up, plateau and decay.
        decay: the length of the decay: steps (int) or a fraction of the run (float). Default: 0.2.
        tail: the shape of the decay: "linear", "cosine", "1-sqrt" or "sqrt". Default: "1-sqrt".
        floor: the factor at the end, in [0, 1]. Default: 0.
        warmup, last_epoch: as in `Schedule`.

    Raises:
        ValueError: warm-up and decay are longer than the run, or as in `Schedule`.

    Example:
        >>> import torch, torch_gd
        >>> from torch_gd.lr_scheduler import WarmupStableDecaySchedule
        >>> optimizer = torch_gd.SGD([torch.ones(2, requires_grad=True)], lr=0.1)
        >>> scheduler = WarmupStableDecaySchedule(optimizer, total_steps=1000, decay=0.2, warmup=50)
        >>> [scheduler.factor(step) for step in (0, 50, 800, 850, 1000)]
        [0.0, 1.0, 1.0, 0.5, 0.0]
    """

    _right_names = RIGHT_NAMES | DECAY_LENGTH_NAMES

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        decay: int | float = 0.2,
        tail: str = "1-sqrt",
        floor: float = 0.0,
        warmup: AnyWarmup = 0,
        last_epoch: int = -1,
    ) -> None:
        checks.choice("tail", tail, functions.TAILS)
        decay_steps = checks.steps_of("decay", decay, total_steps)
        stable_steps = steps_after(warmup, total_steps) - decay_steps
        if stable_steps < 0:
            raise ValueError(
                f"Invalid decay: {decay_steps} steps after {warmup_steps(warmup, total_steps)} of warm-up are longer "
                f"than the run, total_steps={total_steps}"
            )
        shape = partial(
            functions.stable_decay,
            stable_steps=stable_steps,
            decay_steps=decay_steps,
            tail=tail,
            floor=checks.floor(floor),
        )
        super().__init__(optimizer, shape, total_steps, warmup, last_epoch)
