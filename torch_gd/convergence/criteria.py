"""The stopping criteria: limits of epochs, steps and time, and criteria on a loss or a metric."""

import math
import time
from collections.abc import Mapping
from typing import Any

from .._arguments import as_state, number, real
from . import checks
from .criterion import Criterion
from .divergence import has_risen, not_finite


class MaxEpochs(Criterion):
    """Stops after a number of epochs.

    Args:
        max_epochs: the number of whole epochs; the value `epoch` counts them from 1.

    Raises:
        ValueError: `max_epochs` is below 1, or no whole number; infinite is no limit.
        TypeError: `max_epochs` is no number.

    Example:
        >>> from torch_gd.convergence import MaxEpochs
        >>> stop = MaxEpochs(10)
        >>> stop(epoch=9), stop(epoch=10)
        (False, True)
    """

    def __init__(self, max_epochs: float) -> None:
        super().__init__()
        self.max_epochs = checks.limit("max_epochs", max_epochs)

    def decide(self, values: dict[str, float]) -> str:
        return f"{self.max_epochs} epochs" if _counted(self, values, "epoch") >= self.max_epochs else ""


class MaxSteps(Criterion):
    """Stops after a number of optimizer steps.

    Args:
        max_steps: the number of steps; the value `step` counts them from 1.

    Raises:
        ValueError: `max_steps` is below 1, or no whole number; infinite is no limit.
        TypeError: `max_steps` is no number.

    Example:
        >>> from torch_gd.convergence import MaxSteps
        >>> stop = MaxSteps(1000)
        >>> stop(step=999), stop(step=1000)
        (False, True)
    """

    def __init__(self, max_steps: float) -> None:
        super().__init__()
        self.max_steps = checks.limit("max_steps", max_steps)

    def decide(self, values: dict[str, float]) -> str:
        return f"{self.max_steps} steps" if _counted(self, values, "step") >= self.max_steps else ""


class TimeBudget(Criterion):
    """Stops at the first call after some time.

    The clock starts when the criterion is made, and again at `reset`. After `load_state_dict`, the time that the saved
    run had used counts too.

    Args:
        seconds: added to minutes and hours. Default: 0.
        minutes: Default: 0.
        hours: Default: 0.

    Raises:
        ValueError: one of the three is negative, or all are 0.
        TypeError: one of the three is no number.

    Example:
        >>> from torch_gd.convergence import TimeBudget
        >>> stop = TimeBudget(minutes=30)
        >>> stop()
        False
    """

    def __init__(self, seconds: float = 0.0, minutes: float = 0.0, hours: float = 0.0) -> None:
        super().__init__()
        advice = "; pass numbers, as in TimeBudget(hours=1.5)"
        parts = {"seconds": seconds, "minutes": minutes, "hours": hours}
        seconds, minutes, hours = (
            number(name, real(name, part, advice=advice), finite=False) for name, part in parts.items()
        )
        self.seconds = seconds + 60 * minutes + 3600 * hours
        if self.seconds == 0:
            raise ValueError("Invalid seconds, minutes and hours: 0 s in all; there must be some")
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

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        used = number("used in state_dict", as_state(state_dict, "used")["used"])
        super().load_state_dict(state_dict)
        self._start = time.monotonic() - used


class TargetLoss(Criterion):
    """Stops once a loss is as low as wanted, or with `mode="max"` a metric is as high.

    Args:
        target: the value to reach.
        monitor: the name of the value to look at. Default: "loss".
        mode: "min" or "max". Default: "min".

    Raises:
        ValueError: `target` is NaN, or `mode` is another word.
        TypeError: `target` is no number, or `monitor` is not a name.

    Example:
        >>> from torch_gd.convergence import TargetLoss
        >>> stop = TargetLoss(0.1) | TargetLoss(0.99, monitor="accuracy", mode="max")
        >>> stop(loss=0.3, accuracy=0.995)
        True
    """

    def __init__(self, target: float, monitor: str = "loss", mode: str = "min") -> None:
        super().__init__()
        self.target = checks.not_nan("target", target)
        self.monitor, self.sign = checks.monitored(monitor), checks.sign(mode)

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
        ValueError: `factor` is not above 1, or `patience` is below 1 or no whole number.
        TypeError: `factor` or `patience` is no number, or `monitor` is not a name.

    Example:
        >>> from torch_gd.convergence import Diverged, MaxSteps
        >>> stop = MaxSteps(1000) | Diverged()
        >>> stop(step=1, loss=2.3), stop(step=2, loss=5.0), stop.reason
        (False, True, 'loss rose to 5, from 2.3')
    """

    def __init__(self, factor: float = 2.0, monitor: str = "loss", patience: int = 1) -> None:
        super().__init__()
        self.factor, self.monitor = real("factor", factor), checks.monitored(monitor)
        if not self.factor > 1:
            raise ValueError(f"Invalid factor: {factor}; it must be above 1")
        self.patience = checks.limit("patience", patience)

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
        ValueError: `min_delta` or `patience` is out of range or NaN, `patience` is no whole number, or `mode` is
            another word.
        TypeError: `min_delta` or `patience` is no number, `monitor` is not a name, or `relative` is neither True nor
            False.

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
        self.monitor = checks.monitored(monitor)
        self.min_delta = number("min_delta", min_delta, finite=False)
        if math.isinf(self.min_delta):
            raise ValueError("Invalid min_delta: inf; nothing would ever be an improvement")
        self.patience = checks.limit("patience", patience, least=0)
        self.mode, self.sign, self.relative = mode, checks.sign(mode), checks.flag("relative", relative)

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


def _counted(criterion: Criterion, values: dict[str, float], name: str) -> float:
    """Return the value that counts epochs or steps; NaN would never reach a limit."""
    value = criterion.value(values, name)
    if math.isnan(value):
        raise ValueError(f"Invalid {name}: nan; it counts from 1")
    return value
