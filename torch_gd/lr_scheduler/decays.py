"""Schedules whose decay is one smooth curve from the peak to the end of the run."""

from functools import partial

from torch.optim import Optimizer

from .._arguments import count, number
from . import checks, functions
from .schedule import Schedule
from .warmup import AnyWarmup, steps_after, warmup_steps


class ConstantSchedule(Schedule):
    """The base learning rate, after a warm-up: $d(n) = 1$.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        total_steps: the length of the run, which a warm-up given as a fraction needs. Default: None.
        warmup, last_epoch: as in `Schedule`.

    Example:
        >>> import torch, torch_gd
        >>> optimizer = torch_gd.SGD([torch.ones(2, requires_grad=True)], lr=0.1)
        >>> scheduler = torch_gd.lr_scheduler.ConstantSchedule(optimizer, warmup=100)
        >>> [scheduler.factor(step) for step in (0, 50, 100, 1000)]
        [0.0, 0.5, 1.0, 1.0]
    """

    def __init__(
        self, optimizer: Optimizer, total_steps: int | None = None, warmup: AnyWarmup = 0, last_epoch: int = -1
    ) -> None:
        super().__init__(optimizer, functions.constant, total_steps, warmup, last_epoch)


class LinearSchedule(Schedule):
    r"""A straight line down: $d(n) = 1 - (1 - f) \, n / N$, where $N$ is the number of steps after the warm-up.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        total_steps: the length of the run in steps, warm-up included.
        floor: the factor $f$ at the end, in [0, 1]. Default: 0.
        warmup, last_epoch: as in `Schedule`.

    Example:
        >>> import torch, torch_gd
        >>> optimizer = torch_gd.SGD([torch.ones(2, requires_grad=True)], lr=0.1)
        >>> scheduler = torch_gd.lr_scheduler.LinearSchedule(optimizer, total_steps=1000, warmup=0.1)
        >>> [scheduler.factor(step) for step in (0, 50, 100, 550, 1000)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        floor: float = 0.0,
        warmup: AnyWarmup = 0,
        last_epoch: int = -1,
    ) -> None:
        steps = steps_after(warmup, total_steps)
        decay = partial(functions.linear, steps=steps, floor=checks.floor(floor))
        super().__init__(optimizer, decay, total_steps, warmup, last_epoch)


class CosineSchedule(Schedule):
    r"""Cosine annealing (Loshchilov & Hutter 2017): $d(n) = f + (1 - f) \, (1 + \cos(\pi n / N)) / 2$.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        total_steps: the length of the run in steps, warm-up included; $N$ is what the warm-up leaves of it.
        floor: the factor $f$ at the end, in [0, 1]. Default: 0.
        warmup, last_epoch: as in `Schedule`.

    Example:
        >>> import torch, torch_gd
        >>> optimizer = torch_gd.SGD([torch.ones(2, requires_grad=True)], lr=0.1)
        >>> scheduler = torch_gd.lr_scheduler.CosineSchedule(optimizer, total_steps=1000, floor=0.1, warmup=50)
        >>> [round(scheduler.factor(step), 3) for step in (0, 25, 50, 525, 1000)]
        [0.0, 0.5, 1.0, 0.55, 0.1]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        floor: float = 0.0,
        warmup: AnyWarmup = 0,
        last_epoch: int = -1,
    ) -> None:
        steps = steps_after(warmup, total_steps)
        decay = partial(functions.cosine, steps=steps, floor=checks.floor(floor))
        super().__init__(optimizer, decay, total_steps, warmup, last_epoch)


class PolynomialSchedule(Schedule):
    r"""A polynomial down: $d(n) = f + (1 - f) \, (1 - n / N)^p$.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        total_steps: the length of the run in steps, warm-up included; $N$ is what the warm-up leaves of it.
        power: the power $p$, above 0. Default: 1.
        floor: the factor $f$ at the end, in [0, 1]. Default: 0.
        warmup, last_epoch: as in `Schedule`.

    Example:
        >>> import torch, torch_gd
        >>> optimizer = torch_gd.SGD([torch.ones(2, requires_grad=True)], lr=0.1)
        >>> scheduler = torch_gd.lr_scheduler.PolynomialSchedule(optimizer, total_steps=1000, power=2.0)
        >>> [scheduler.factor(step) for step in (0, 500, 1000)]
        [1.0, 0.25, 0.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        power: float = 1.0,
        floor: float = 0.0,
        warmup: AnyWarmup = 0,
        last_epoch: int = -1,
    ) -> None:
        steps = steps_after(warmup, total_steps)
        power = number("power", power, above_zero=True)
        decay = partial(functions.polynomial, steps=steps, power=power, floor=checks.floor(floor))
        super().__init__(optimizer, decay, total_steps, warmup, last_epoch)


class ExponentialSchedule(Schedule):
    r"""Exponential decay: $d(n) = \gamma^n$.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        gamma: the factor $\gamma$ of each step, in (0, 1].
        total_steps: the length of the run in steps, warm-up included. Default: None, a run without an end.
        warmup, last_epoch: as in `Schedule`.

    Example:
        >>> import torch, torch_gd
        >>> optimizer = torch_gd.SGD([torch.ones(2, requires_grad=True)], lr=0.1)
        >>> scheduler = torch_gd.lr_scheduler.ExponentialSchedule(optimizer, gamma=0.5, warmup=50)
        >>> [scheduler.factor(step) for step in (50, 51, 52)]
        [1.0, 0.5, 0.25]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        gamma: float,
        total_steps: int | None = None,
        warmup: AnyWarmup = 0,
        last_epoch: int = -1,
    ) -> None:
        decay = partial(functions.exponential, gamma=checks.gamma(gamma))
        super().__init__(optimizer, decay, total_steps, warmup, last_epoch)


class InverseSqrtSchedule(Schedule):
    r"""Inverse square root (Vaswani et al. 2017): $d(n) = 1 / \sqrt{1 + n / \tau}$.

    If $\tau$ is the number $W$ of warm-up steps, this is $\sqrt{W / t}$ at step $t$ of the run, as in the paper.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        timescale: $\tau$ in steps. Default: None, the number of warm-up steps, or 10,000 without a warm-up.
        total_steps: the length of the run in steps, warm-up included. Default: None, a run without an end.
        warmup, last_epoch: as in `Schedule`.

    Example:
        >>> import torch, torch_gd
        >>> optimizer = torch_gd.SGD([torch.ones(2, requires_grad=True)], lr=0.1)
        >>> scheduler = torch_gd.lr_scheduler.InverseSqrtSchedule(optimizer, warmup=4000)
        >>> [scheduler.factor(step) for step in (2000, 4000, 16000)]
        [0.5, 1.0, 0.5]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        timescale: int | None = None,
        total_steps: int | None = None,
        warmup: AnyWarmup = 0,
        last_epoch: int = -1,
    ) -> None:
        if timescale is None:
            timescale = warmup_steps(warmup, total_steps) or 10_000
        decay = partial(functions.inverse_sqrt, timescale=count("timescale", timescale))
        super().__init__(optimizer, decay, total_steps, warmup, last_epoch)
