"""The stopping criteria: limits of epochs, steps and time, and criteria on a loss or a metric."""

import math
import time
from typing import Any

from .._arguments import short
from .criterion import Criterion
from .divergence import has_risen, not_finite


class MaxEpochs(Criterion):
    """Stops after a number of epochs.

    Args:
        max_epochs: the number of whole epochs; the value `epoch` counts them from 1.

    Raises:
        ValueError: `max_epochs` is below 1.

    Example:
        >>> from torch_gd.convergence import MaxEpochs
        >>> stop = MaxEpochs(10)
        >>> stop(epoch=9), stop(epoch=10)
        (False, True)
    """

    def __init__(self, max_epochs: int) -> None:
        super().__init__()
        self.max_epochs = _at_least_1("max_epochs", max_epochs)

    def decide(self, values: dict[str, float]) -> str:
        return f"{self.max_epochs} epochs" if self.value(values, "epoch") >= self.max_epochs else ""


class MaxSteps(Criterion):
    """Stops after a number of optimizer steps.

    Args:
        max_steps: the number of steps; the value `step` counts them from 1.

    Raises:
        ValueError: `max_steps` is below 1.

    Example:
        >>> from torch_gd.convergence import MaxSteps
        >>> stop = MaxSteps(1000)
        >>> stop(step=999), stop(step=1000)
        (False, True)
    """

    def __init__(self, max_steps: int) -> None:
        super().__init__()
        self.max_steps = _at_least_1("max_steps", max_steps)

    def decide(self, values: dict[str, float]) -> str:
        return f"{self.max_steps} steps" if self.value(values, "step") >= self.max_steps else ""


class TimeBudget(Criterion):
    """Stops at the first call after some time.

    The clock starts when the criterion is made, and again at `reset`. After `load_state_dict`, the time that the saved
    run had used counts too.

    Args:
        seconds: added to minutes and hours. Default: 0.
        minutes: Default: 0.
        hours: Default: 0.

    Raises:
        ValueError: the time is 0 or less in all.

    Example:
        >>> from torch_gd.convergence import TimeBudget
        >>> stop = TimeBudget(minutes=30)
        >>> stop()
        False
    """

    def __init__(self, seconds: float = 0.0, minutes: float = 0.0, hours: float = 0.0) -> None:
        super().__init__()
        self.seconds = seconds + 60 * minutes + 3600 * hours
        if not self.seconds > 0:
            raise ValueError(f"Invalid seconds, minutes and hours: {self.seconds} s in all; there must be some")
        self._start = time.monotonic()

    def decide(self, values: dict[str, float]) -> str:
        return f"{self.seconds:g} seconds are over" if self.used() >= self.seconds else ""

    def used(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._start

    def reset(self) -> None:
        super().reset()
        self._start = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"used": self.used()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._start = time.monotonic() - state_dict["used"]


class TargetLoss(Criterion):
    """Stops once a loss is as low as wanted, or with `mode="max"` a metric is as high.

    Args:
        target: the value to reach.
        monitor: the name of the value to look at. Default: "loss".
        mode: "min" or "max". Default: "min".

    Raises:
        ValueError: `mode` is another word.
        TypeError: `monitor` is not a name.

    Example:
        >>> from torch_gd.convergence import TargetLoss
        >>> stop = TargetLoss(0.1) | TargetLoss(0.99, monitor="accuracy", mode="max")
        >>> stop(loss=0.3, accuracy=0.995)
        True
    """

    def __init__(self, target: float, monitor: str = "loss", mode: str = "min") -> None:
        super().__init__()
        self.target, self.monitor, self.sign = target, _name(monitor), _sign(mode)

    def decide(self, values: dict[str, float]) -> str:
        value = self.value(values, self.monitor)
        return f"{self.monitor} reached {value:.4g}" if self.sign * value <= self.sign * self.target else ""


class Diverged(Criterion):
    r"""Stops when a loss is not finite, or has risen far above the first one.

    It has risen far when $l > l_1 + (f - 1) |l_1|$ for the first loss $l_1$ and a factor $f$.

    Args:
        factor: $f$; 2 means twice the first loss. Default: 2.
        monitor: the name of the value to look at. Default: "loss".
        patience: the number of values in a row that must be too high; one that is not finite is enough. Default: 1.

    Raises:
        ValueError: `factor` is not above 1, or `patience` is below 1.
        TypeError: `monitor` is not a name.

    Example:
        >>> from torch_gd.convergence import Diverged, MaxSteps
        >>> stop = MaxSteps(1000) | Diverged()
        >>> stop(step=1, loss=2.3), stop(step=2, loss=5.0), stop.reason
        (False, True, 'loss rose to 5, from 2.3')
    """

    def __init__(self, factor: float = 2.0, monitor: str = "loss", patience: int = 1) -> None:
        super().__init__()
        if not factor > 1:
            raise ValueError(f"Invalid factor: {factor}; it must be above 1")
        self.factor, self.monitor, self.patience = factor, _name(monitor), _at_least_1("patience", patience)

    def decide(self, values: dict[str, float]) -> str:
        value = self.value(values, self.monitor)
        if reason := not_finite(self.monitor, value):
            return reason
        first = self.memory.setdefault("first", value)
        risen = has_risen(value, first, by=(self.factor - 1) * abs(first))
        self.memory["count"] = self.memory.get("count", 0) + 1 if risen else 0
        if self.memory["count"] < self.patience:
            return ""
        return f"{self.monitor} rose to {value:.4g}, from {first:.4g}"


class NoImprovement(Criterion):
    """Stops when a loss has not improved for some time.

    A value improves on the best so far if it is lower by more than `min_delta`; with `relative`, by more than
    `min_delta` times the size of the best.

    Args:
        monitor: the name of the value to look at. Default: "loss".
        min_delta: the improvement that does not count yet. Default: 0.
        patience: it stops after this many values in a row without an improvement; 0 is the same as 1. Default: 3.
        mode: "min" for losses, "max" for metrics that rise. Default: "min".
        relative: whether `min_delta` is a share of the best value. Default: False.

    Raises:
        ValueError: `min_delta` or `patience` is negative, or `mode` is another word.
        TypeError: `monitor` is not a name.

    Example:
        >>> from torch_gd.convergence import NoImprovement
        >>> stop = NoImprovement(patience=2, min_delta=0.01, relative=True)
        >>> [stop(loss=loss) for loss in (1.0, 0.9, 0.899, 0.898)]
        [False, False, False, True]
    """

    def __init__(
        self,
        monitor: str = "loss",
        min_delta: float = 0.0,
        patience: int = 3,
        mode: str = "min",
        relative: bool = False,
    ) -> None:
        super().__init__()
        self.monitor = _name(monitor)
        if not min_delta >= 0:
            raise ValueError(f"Invalid min_delta: {min_delta}; it must be 0 or more")
        if patience < 0:
            raise ValueError(f"Invalid patience: {patience}; it must be 0 or more")
        self.min_delta, self.patience = min_delta, patience
        self.mode, self.sign, self.relative = mode, _sign(mode), relative

    @property
    def best(self) -> float:
        """The best value so far; infinite before there is one."""
        return float(self.memory.get("best", self.sign * math.inf))

    @property
    def wait_count(self) -> int:
        """The number of values since the best one."""
        return int(self.memory.get("wait_count", 0))

    def decide(self, values: dict[str, float]) -> str:
        value = self.value(values, self.monitor)
        margin = self.min_delta * abs(self.best) if self.relative and math.isfinite(self.best) else self.min_delta
        if self.sign * value < self.sign * self.best - margin:
            self.memory |= {"best": value, "wait_count": 0}
            self.improved()
            return ""
        self.memory["wait_count"] = self.wait_count + 1
        if self.wait_count < self.patience:
            return ""
        return f"{self.monitor} has not improved on {self.best:.4g} in {self.wait_count} records"

    def improved(self) -> None:
        """Called after each improvement, for subclasses."""


def _at_least_1(name: str, value: int) -> int:
    """Check that a number is 1 or more."""
    if value < 1:
        raise ValueError(f"Invalid {name}: {value}; it must be 1 or more")
    return value


def _name(monitor: object) -> str:
    """Check that a value to look at is given by its name."""
    if not isinstance(monitor, str):
        raise TypeError(f"monitor is {short(monitor)}, not the name of a value, such as 'val_loss'")
    return monitor


def _sign(mode: str) -> int:
    """Return 1 if lower values are better, and -1 if higher ones are."""
    if mode not in ("min", "max"):
        raise ValueError(f"Invalid mode: {mode!r}; it must be 'min' or 'max'")
    return 1 if mode == "min" else -1
