"""The schedules by name: each a closed-form function of `functions.py`, with its arguments checked."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor
from torch.optim import Optimizer

from . import checks, functions
from .schedule import Schedule, Warmup


class ConstantSchedule(Schedule):
    """The base learning rate, after a warm-up: d(n) = 1.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        total_steps: length of the run, which a warm-up by fraction needs. Default: None.
        warmup: steps (int), a fraction of the run (float), or a `Warmup`. Default: 0.
        last_epoch: the last step done, to resume after it. Default: -1.

    Raises:
        ValueError: an argument out of range, or a warm-up longer than the run.

    Example:
        >>> scheduler = ConstantSchedule(optimizer, warmup=100)
        >>> optimizer.step(); scheduler.step()
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int | None = None,
        warmup: int | float | Warmup = 0,
        last_epoch: int = -1,
    ) -> None:
        super().__init__(optimizer, functions.constant, total_steps, warmup, last_epoch)


class LinearSchedule(Schedule):
    """A straight line down: d(n) = 1 − (1 − floor) n / N, N being the steps after the warm-up.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        total_steps: length of the run, warm-up included.
        floor: the factor at the end, in [0, 1]. Default: 0.
        warmup: steps (int), a fraction of the run (float), or a `Warmup`. Default: 0.
        last_epoch: the last step done, to resume after it. Default: -1.

    Raises:
        ValueError: an argument out of range, or a warm-up longer than the run.

    Example:
        >>> scheduler = LinearSchedule(optimizer, total_steps=1000, warmup=0.1)
        >>> optimizer.step(); scheduler.step()
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        floor: float = 0.0,
        warmup: int | float | Warmup = 0,
        last_epoch: int = -1,
    ) -> None:
        steps = _after(warmup, total_steps)
        decay = partial(functions.linear, steps=steps, floor=checks.floor(floor))
        super().__init__(optimizer, decay, total_steps, warmup, last_epoch)


class CosineSchedule(Schedule):
    r"""Cosine annealing (Loshchilov & Hutter 2017): :math:`d(n) = f + (1 - f) (1 + \cos(\pi n / N)) / 2`.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        total_steps: length of the run, warm-up included; N is what the warm-up leaves of it.
        floor: the factor f at the end, in [0, 1]. Default: 0.
        warmup: steps (int), a fraction of the run (float), or a `Warmup`. Default: 0.
        last_epoch: the last step done, to resume after it. Default: -1.

    Raises:
        ValueError: an argument out of range, or a warm-up longer than the run.

    Example:
        >>> scheduler = CosineSchedule(optimizer, total_steps=1000, floor=0.1, warmup=50)
        >>> optimizer.step(); scheduler.step()
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        floor: float = 0.0,
        warmup: int | float | Warmup = 0,
        last_epoch: int = -1,
    ) -> None:
        steps = _after(warmup, total_steps)
        decay = partial(functions.cosine, steps=steps, floor=checks.floor(floor))
        super().__init__(optimizer, decay, total_steps, warmup, last_epoch)


class CosineRestartsSchedule(Schedule):
    r"""Cosine annealing with warm restarts (SGDR, Loshchilov & Hutter 2017), with peaks that may shrink.

    .. math:: d(n) = f + (1 - f) \, \rho^i (1 + \cos(\pi t / T_i)) / 2, \quad T_i = m^i T_0

    at step t of cycle i. A run does not end with a restart: where its last step would be one, it is at the floor.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        first_cycle: steps :math:`T_0` of the first cycle.
        cycle_mult: m, an int. Default: 1, cycles of equal length.
        peak_decay: :math:`\rho`, in (0, 1]. Default: 1.
        floor: the factor f that each cycle comes down to, in [0, 1]. Default: 0.
        total_steps: length of the run, warm-up included. Default: None, cycles without end.
        warmup: steps (int), a fraction of the run (float), or a `Warmup`. Default: 0.
        last_epoch: the last step done, to resume after it. Default: -1.

    Raises:
        ValueError: an argument out of range, or a warm-up longer than the run.

    Example:
        >>> scheduler = CosineRestartsSchedule(optimizer, first_cycle=100, cycle_mult=2, peak_decay=0.8, warmup=20)
        >>> optimizer.step(); scheduler.step()
    """

    def __init__(
        self,
        optimizer: Optimizer,
        first_cycle: int,
        cycle_mult: int = 1,
        peak_decay: float = 1.0,
        floor: float = 0.0,
        total_steps: int | None = None,
        warmup: int | float | Warmup = 0,
        last_epoch: int = -1,
    ) -> None:
        decay = partial(
            functions.cosine_restarts,
            first_cycle=checks.count("first_cycle", first_cycle),
            cycle_mult=checks.count("cycle_mult", cycle_mult),
            peak_decay=checks.fraction("peak_decay", checks.positive("peak_decay", peak_decay)),
            floor=checks.floor(floor),
            steps=None if total_steps is None else _after(warmup, total_steps),
        )
        super().__init__(optimizer, decay, total_steps, warmup, last_epoch)


class PolynomialSchedule(Schedule):
    """A polynomial down: d(n) = floor + (1 − floor) (1 − n / N)^power.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        total_steps: length of the run, warm-up included; N is what the warm-up leaves of it.
        power: of the polynomial, above 0. Default: 1.
        floor: the factor at the end, in [0, 1]. Default: 0.
        warmup: steps (int), a fraction of the run (float), or a `Warmup`. Default: 0.
        last_epoch: the last step done, to resume after it. Default: -1.

    Raises:
        ValueError: an argument out of range, or a warm-up longer than the run.

    Example:
        >>> scheduler = PolynomialSchedule(optimizer, total_steps=1000, power=2.0, warmup=50)
        >>> optimizer.step(); scheduler.step()
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        power: float = 1.0,
        floor: float = 0.0,
        warmup: int | float | Warmup = 0,
        last_epoch: int = -1,
    ) -> None:
        steps = _after(warmup, total_steps)
        power = checks.positive("power", power)
        decay = partial(functions.polynomial, steps=steps, power=power, floor=checks.floor(floor))
        super().__init__(optimizer, decay, total_steps, warmup, last_epoch)


class ExponentialSchedule(Schedule):
    r"""Exponential decay: :math:`d(n) = \gamma^n`.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        gamma: factor a step, in (0, 1].
        total_steps: length of the run, warm-up included. Default: None, no end.
        warmup: steps (int), a fraction of the run (float), or a `Warmup`. Default: 0.
        last_epoch: the last step done, to resume after it. Default: -1.

    Raises:
        ValueError: an argument out of range, or a warm-up longer than the run.

    Example:
        >>> scheduler = ExponentialSchedule(optimizer, gamma=0.999, warmup=50)
        >>> optimizer.step(); scheduler.step()
    """

    def __init__(
        self,
        optimizer: Optimizer,
        gamma: float,
        total_steps: int | None = None,
        warmup: int | float | Warmup = 0,
        last_epoch: int = -1,
    ) -> None:
        decay = partial(functions.exponential, gamma=_gamma(gamma))
        super().__init__(optimizer, decay, total_steps, warmup, last_epoch)


class StepSchedule(Schedule):
    r"""Steps down at equal distances: :math:`d(n) = \gamma^{\lfloor n / s \rfloor}`.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        step_size: s, steps from one drop to the next, the first counted from the end of the warm-up.
        gamma: factor a drop, in (0, 1]. Default: 0.1.
        total_steps: length of the run, warm-up included. Default: None, no end.
        warmup: steps (int), a fraction of the run (float), or a `Warmup`. Default: 0.
        last_epoch: the last step done, to resume after it. Default: -1.

    Raises:
        ValueError: an argument out of range, or a warm-up longer than the run.

    Example:
        >>> scheduler = StepSchedule(optimizer, step_size=300, warmup=50)
        >>> optimizer.step(); scheduler.step()
    """

    def __init__(
        self,
        optimizer: Optimizer,
        step_size: int,
        gamma: float = 0.1,
        total_steps: int | None = None,
        warmup: int | float | Warmup = 0,
        last_epoch: int = -1,
    ) -> None:
        decay = partial(functions.stairs, step_size=checks.count("step_size", step_size), gamma=_gamma(gamma))
        super().__init__(optimizer, decay, total_steps, warmup, last_epoch)


class MultiStepSchedule(Schedule):
    r"""Steps down at milestones: :math:`d(n) = \gamma^k` once k of them are reached.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        milestones: steps counted from the end of the warm-up, in rising order.
        gamma: factor a drop, in (0, 1]. Default: 0.1.
        total_steps: length of the run, warm-up included. Default: None, no end.
        warmup: steps (int), a fraction of the run (float), or a `Warmup`. Default: 0.
        last_epoch: the last step done, to resume after it. Default: -1.

    Raises:
        ValueError: unsorted milestones, one that the run never reaches, another argument out of range, or a warm-up
            longer than the run.

    Example:
        >>> scheduler = MultiStepSchedule(optimizer, milestones=[300, 600], warmup=50)
        >>> optimizer.step(); scheduler.step()
    """

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Sequence[int],
        gamma: float = 0.1,
        total_steps: int | None = None,
        warmup: int | float | Warmup = 0,
        last_epoch: int = -1,
    ) -> None:
        steps = tuple(checks.count(f"milestones[{i}]", milestone) for i, milestone in enumerate(milestones))
        if list(steps) != sorted(set(steps)):
            raise ValueError(f"Invalid milestones: {list(milestones)}; they must rise from one to the next")
        if total_steps is not None and steps and steps[-1] > _after(warmup, total_steps):
            raise ValueError(
                f"Invalid milestones: {steps[-1]} is never reached; the run has {_after(warmup, total_steps)} steps "
                "after its warm-up"
            )
        decay = partial(functions.multi_step, milestones=steps, gamma=_gamma(gamma))
        super().__init__(optimizer, decay, total_steps, warmup, last_epoch)


class InverseSqrtSchedule(Schedule):
    r"""Inverse square root (Vaswani et al. 2017): :math:`d(n) = 1 / \sqrt{1 + n / \tau}`.

    With :math:`\tau` the warm-up's steps W that is :math:`\sqrt{W / t}` at step t of the run, as in the paper.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        timescale: :math:`\tau` in steps. Default: None, the warm-up's steps, or 10,000 without one.
        total_steps: length of the run, warm-up included. Default: None, no end.
        warmup: steps (int), a fraction of the run (float), or a `Warmup`. Default: 0.
        last_epoch: the last step done, to resume after it. Default: -1.

    Raises:
        ValueError: an argument out of range, or a warm-up longer than the run.

    Example:
        >>> scheduler = InverseSqrtSchedule(optimizer, warmup=4000)
        >>> optimizer.step(); scheduler.step()
    """

    def __init__(
        self,
        optimizer: Optimizer,
        timescale: int | None = None,
        total_steps: int | None = None,
        warmup: int | float | Warmup = 0,
        last_epoch: int = -1,
    ) -> None:
        if timescale is None:
            timescale = _warmup_steps(warmup, total_steps) or 10_000
        decay = partial(functions.inverse_sqrt, timescale=checks.count("timescale", timescale))
        super().__init__(optimizer, decay, total_steps, warmup, last_epoch)


class WarmupStableDecaySchedule(Schedule):
    r"""Warm-up, a plateau, and a short decay at the end (Hu et al. 2024; Hägele et al. 2024).

    With p the part of the decay that is done, d falls from 1 to `floor` as 1 − p ("linear"), (1 + cos πp) / 2
    ("cosine"), 1 − √p ("1-sqrt", the paper's choice) or √(1 − p) ("sqrt").

    Args:
        optimizer: any `torch.optim.Optimizer`.
        total_steps: length of the run: warm-up, plateau and decay.
        decay: length of the decay, in steps (int) or as a fraction of the run (float). Default: 0.2.
        tail: "linear", "cosine", "1-sqrt" or "sqrt". Default: "1-sqrt".
        floor: the factor at the end, in [0, 1]. Default: 0.
        warmup: steps (int), a fraction of the run (float), or a `Warmup`. Default: 0.
        last_epoch: the last step done, to resume after it. Default: -1.

    Raises:
        ValueError: an argument out of range, or a warm-up and decay longer than the run.

    Example:
        >>> scheduler = WarmupStableDecaySchedule(optimizer, total_steps=1000, decay=0.2, warmup=50)
        >>> optimizer.step(); scheduler.step()
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        decay: int | float = 0.2,
        tail: str = "1-sqrt",
        floor: float = 0.0,
        warmup: int | float | Warmup = 0,
        last_epoch: int = -1,
    ) -> None:
        checks.choice("tail", tail, functions.TAILS)
        decay_steps = checks.steps_of("decay", decay, total_steps)
        stable_steps = _after(warmup, total_steps) - decay_steps
        if stable_steps < 0:
            raise ValueError(
                f"Invalid decay: {decay_steps} steps after {_warmup_steps(warmup, total_steps)} of warm-up are longer "
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


class OneCycleSchedule(Schedule):
    r"""The 1cycle policy (Smith & Topin 2018), torch's `OneCycleLR` with the base learning rate as its `max_lr`.

    The factor rises from 1 / `div_factor` to 1 and falls to 1 / (`div_factor` · `final_div_factor`), while momentum, or
    Adam's :math:`\beta_1`, goes the other way. As in torch the last value is that of step `total_steps` − 1.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        total_steps: length of the run, warm-up included.
        pct_start: the part of the cycle that rises, in [0, 1]. Default: 0.3.
        anneal_strategy: "cos" or "linear". Default: "cos".
        cycle_momentum: whether momentum cycles too. Default: True.
        base_momentum: momentum at the peak. Default: 0.85.
        max_momentum: momentum at both ends. Default: 0.95.
        div_factor: peak over start, 1 or more. Default: 25.
        final_div_factor: start over end, 1 or more. Default: 1e4.
        three_phase: come down to the start as steeply as it went up, and from there to the end. Default: False.
        warmup: steps (int), a fraction of the run (float), or a `Warmup`, up to the cycle's start. Default: 0.
        last_epoch: the last step done, to resume after it. Default: -1.

    Raises:
        ValueError: an argument out of range, `cycle_momentum` for an optimizer without momentum, or a warm-up longer
            than the run.

    Example:
        >>> scheduler = OneCycleSchedule(torch_gd.SGD(model.parameters(), lr=0.1, momentum=0.9), total_steps=1000)
        >>> optimizer.step(); scheduler.step()
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        warmup: int | float | Warmup = 0,
        last_epoch: int = -1,
    ) -> None:
        if cycle_momentum and isinstance(optimizer, Optimizer) and not {"momentum", "betas"} & set(optimizer.defaults):
            raise ValueError(
                f"Invalid cycle_momentum: {type(optimizer).__name__} has neither momentum nor betas; pass False"
            )
        for name, factor in {"div_factor": div_factor, "final_div_factor": final_div_factor}.items():
            if not factor >= 1:
                raise ValueError(f"Invalid {name}: {factor}; it must be 1 or more, lest the end be above the peak")
        for name, momentum in {"base_momentum": base_momentum, "max_momentum": max_momentum}.items():
            if not 0 <= momentum < 1:
                raise ValueError(f"Invalid {name}: {momentum}; it must be in [0, 1)")
        shape = partial(
            functions.one_cycle,
            steps=_after(warmup, total_steps),
            peak_at=checks.fraction("pct_start", pct_start),
            three_phase=three_phase,
            anneal=checks.choice("anneal_strategy", anneal_strategy, ("cos", "linear")),
        )
        start = 1.0 / div_factor
        decay = partial(shape, start=start, peak=1.0, end=start / final_div_factor)
        self.cycle_momentum = cycle_momentum
        self._momentum = partial(shape, start=max_momentum, peak=base_momentum, end=max_momentum)
        super().__init__(optimizer, decay, total_steps, warmup, last_epoch)

    def momentum(self, step: int) -> float:
        """Momentum, or β₁, at a step."""
        return self._momentum(max(0, step - self.warmup_steps))

    def _update_lr(self, epoch: int | None = None) -> None:
        super()._update_lr(epoch)
        if not self.cycle_momentum:
            return
        momentum = self.momentum(self.last_epoch)
        for group in self.optimizer.param_groups:
            old = group["betas"][0] if "betas" in group else group["momentum"]
            if isinstance(old, Tensor):
                old.fill_(momentum)
            elif "betas" in group:
                group["betas"] = (momentum, *group["betas"][1:])
            else:
                group["momentum"] = momentum


def _warmup_steps(warmup: int | float | Warmup, total_steps: int | None) -> int:
    return checks.steps_of("warmup", warmup.length if isinstance(warmup, Warmup) else warmup, total_steps)


def _after(warmup: int | float | Warmup, total_steps: int) -> int:
    """Steps that a warm-up leaves of a run."""
    return checks.count("total_steps", total_steps) - _warmup_steps(warmup, total_steps)


def _gamma(gamma: float) -> float:
    return checks.fraction("gamma", checks.positive("gamma", gamma))
