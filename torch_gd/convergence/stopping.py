"""When to stop: criteria that compose with `|` and `&`, and early stopping that brings the best weights back.

stop = MaxEpochs(100) | EarlyStopping("val_loss", model=model) | TimeBudget(hours=2)
for epoch in itertools.count(1):
    ...
    if stop(epoch=epoch, val_loss=loss):
        break
print(stop.reason)
"""

import math
import time
from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn


class Criterion(ABC):
    """Decides whether to stop, from values given by name.

    A subclass says what it decides in `decide`, and keeps what it must remember in `self.memory`. `reason` says in
    words why it last said stop; it is empty while it does not.
    """

    def __init__(self) -> None:
        self.reason = ""
        self.memory: dict[str, Any] = {}

    def __call__(self, **values: float | Tensor) -> bool:
        """Takes the latest values (a tensor is read, which waits for a GPU) and says whether to stop."""
        numbers = {name: value.item() if isinstance(value, Tensor) else value for name, value in values.items()}
        self.reason = self.decide(numbers)
        if self.reason:
            self.finish()
        return bool(self.reason)

    @abstractmethod
    def decide(self, values: dict[str, float]) -> str:
        """Why to stop, in words; empty to go on."""

    def finish(self) -> None:  # noqa: B027  most have nothing to do
        """Called when the run is to stop, by this criterion or by another that it is composed with."""

    def __or__(self, other: "Criterion") -> "AnyOf":
        return AnyOf(self, other)

    def __and__(self, other: "Criterion") -> "AllOf":
        return AllOf(self, other)

    def reset(self) -> None:
        """Forgets everything, for another run."""
        self.reason = ""
        self.memory = {}

    def state_dict(self) -> dict[str, Any]:
        """What it remembers, for a checkpoint."""
        return {"reason": self.reason, "memory": dict(self.memory)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        self.reason = state_dict["reason"]
        self.memory = dict(state_dict["memory"])

    def value(self, values: dict[str, float], name: str) -> float:
        """One of the values; raises `ValueError` where it was not given."""
        if name not in values:
            given = ", ".join(map(repr, values)) or "nothing"
            raise ValueError(f"{type(self).__name__} needs {name!r}, but was given {given}; pass {name}=…")
        return values[name]


class _Composite(Criterion):
    def __init__(self, *criteria: Criterion) -> None:
        super().__init__()
        for criterion in criteria:
            if not isinstance(criterion, Criterion):
                raise TypeError(f"criteria compose with criteria, not with {type(criterion).__name__}")
        self.criteria = criteria

    def reasons(self, values: dict[str, float]) -> list[str]:
        # Every criterion is asked, also where the first decides: each counts what it sees.
        for criterion in self.criteria:
            criterion.reason = criterion.decide(values)
        return [criterion.reason for criterion in self.criteria if criterion.reason]

    def finish(self) -> None:
        for criterion in self.criteria:
            criterion.finish()

    def reset(self) -> None:
        super().reset()
        for criterion in self.criteria:
            criterion.reset()

    def state_dict(self) -> dict[str, Any]:
        return {"reason": self.reason, "criteria": [criterion.state_dict() for criterion in self.criteria]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.reason = state_dict["reason"]
        for criterion, state in zip(self.criteria, state_dict["criteria"], strict=True):
            criterion.load_state_dict(state)


class AnyOf(_Composite):
    """Stops as soon as one of its criteria does; also written `a | b`."""

    def decide(self, values: dict[str, float]) -> str:
        return "; ".join(self.reasons(values))


class AllOf(_Composite):
    """Stops when all of its criteria do, at once; also written `a & b`."""

    def decide(self, values: dict[str, float]) -> str:
        reasons = self.reasons(values)
        return "; ".join(reasons) if len(reasons) == len(self.criteria) else ""


class MaxEpochs(Criterion):
    """Stops after so many epochs.

    Args:
        max_epochs: whole epochs, as `epoch` counts them (from 1).

    Raises:
        ValueError: `max_epochs` below 1.

    Example:
        >>> stop = MaxEpochs(10)
        >>> stop(epoch=10)
        True
    """

    def __init__(self, max_epochs: int) -> None:
        super().__init__()
        self.max_epochs = _at_least_1("max_epochs", max_epochs)

    def decide(self, values: dict[str, float]) -> str:
        return f"{self.max_epochs} epochs" if self.value(values, "epoch") >= self.max_epochs else ""


class MaxSteps(Criterion):
    """Stops after so many optimizer steps.

    Args:
        max_steps: steps, as `step` counts them (from 1).

    Raises:
        ValueError: `max_steps` below 1.

    Example:
        >>> stop = MaxSteps(1000)
        >>> stop(step=999)
        False
    """

    def __init__(self, max_steps: int) -> None:
        super().__init__()
        self.max_steps = _at_least_1("max_steps", max_steps)

    def decide(self, values: dict[str, float]) -> str:
        return f"{self.max_steps} steps" if self.value(values, "step") >= self.max_steps else ""


class TimeBudget(Criterion):
    """Stops when the time is over: at the first call after it.

    Args:
        seconds, minutes, hours: added up; the clock starts when this is made, and again at `reset`. Loaded from a
            checkpoint, what the run before it used is used.

    Raises:
        ValueError: no time at all.

    Example:
        >>> stop = TimeBudget(minutes=30)
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
        """Seconds since the start."""
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
    """Stops once a loss is as low as wanted, or with `mode="max"` a metric as high.

    Args:
        target: the value to reach.
        monitor: name of the value to look at. Default: "loss".
        mode: "min" or "max". Default: "min".

    Raises:
        ValueError: another `mode`.

    Example:
        >>> stop = TargetLoss(0.1) | TargetLoss(0.99, monitor="accuracy", mode="max")
    """

    def __init__(self, target: float, monitor: str = "loss", mode: str = "min") -> None:
        super().__init__()
        self.target, self.monitor, self.sign = target, monitor, _sign(mode)

    def decide(self, values: dict[str, float]) -> str:
        value = self.value(values, self.monitor)
        return f"{self.monitor} reached {value:.4g}" if self.sign * value <= self.sign * self.target else ""


class Diverged(Criterion):
    """Stops when a loss is not finite, or has risen far above the first one.

    .. math:: l > l_1 + (f - 1) |l_1|

    Args:
        factor: f; 2 for twice the first loss. Default: 2.
        monitor: name of the value to look at. Default: "loss".
        patience: so many values in a row must be too high; one that is not finite is enough. Default: 1.

    Raises:
        ValueError: `factor` not above 1, or `patience` below 1.

    Example:
        >>> stop = MaxSteps(1000) | Diverged()
    """

    def __init__(self, factor: float = 2.0, monitor: str = "loss", patience: int = 1) -> None:
        super().__init__()
        if not factor > 1:
            raise ValueError(f"Invalid factor: {factor}; it must be above 1")
        self.factor, self.monitor, self.patience = factor, monitor, _at_least_1("patience", patience)

    def decide(self, values: dict[str, float]) -> str:
        value = self.value(values, self.monitor)
        if not math.isfinite(value):
            return f"{self.monitor} is {value}"
        first = self.memory.setdefault("first", value)
        risen = value > first + (self.factor - 1) * abs(first)
        self.memory["count"] = self.memory.get("count", 0) + 1 if risen else 0
        if self.memory["count"] < self.patience:
            return ""
        return f"{self.monitor} rose to {value:.4g}, from {first:.4g}"


class NoImprovement(Criterion):
    """Stops when a loss has not improved for some time.

    An improvement is a value below the best so far by more than `min_delta`, or by more than `min_delta` times the
    best's size if `relative`.

    Args:
        monitor: name of the value to look at. Default: "loss".
        min_delta: the least improvement that counts. Default: 0.
        patience: so many values in a row without one stop; 0 is as 1. Default: 3.
        mode: "min" for losses, "max" for metrics that rise. Default: "min".
        relative: whether `min_delta` is a share of the best value. Default: False.

    Raises:
        ValueError: a negative `min_delta` or `patience`, or another `mode`.

    Example:
        >>> stop = NoImprovement(patience=10, min_delta=0.01, relative=True)
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
        if not min_delta >= 0:
            raise ValueError(f"Invalid min_delta: {min_delta}; it must be 0 or more")
        if patience < 0:
            raise ValueError(f"Invalid patience: {patience}; it must be 0 or more")
        self.monitor, self.min_delta, self.patience = monitor, min_delta, patience
        self.mode, self.sign, self.relative = mode, _sign(mode), relative

    @property
    def best(self) -> float:
        """The best value so far; infinite before there is one."""
        return float(self.memory.get("best", self.sign * math.inf))

    @property
    def wait_count(self) -> int:
        """Values since then."""
        return int(self.memory.get("wait_count", 0))

    def decide(self, values: dict[str, float]) -> str:
        value = self.value(values, self.monitor)
        least = self.min_delta * abs(self.best) if self.relative and math.isfinite(self.best) else self.min_delta
        if self.sign * value < self.sign * self.best - least:
            self.memory |= {"best": value, "wait_count": 0}
            self.improved()
            return ""
        self.memory["wait_count"] = self.wait_count + 1
        if self.wait_count < self.patience:
            return ""
        return f"{self.monitor} has not improved on {self.best:.4g} in {self.wait_count} records"

    def improved(self) -> None:
        """Called after each improvement."""


class EarlyStopping(NoImprovement):
    """Stops when a validation loss no longer improves, and brings the best weights back.

    Names, defaults and decisions are those of Lightning's `EarlyStopping`; `relative` and `model` are added.

    Args:
        monitor: name of the value to look at.
        min_delta: an improvement is one by more than this. Default: 0.
        patience: so many values in a row without one stop. Default: 3.
        mode: "min" or "max". Default: "min".
        strict: whether a value that was not given is an error; otherwise such a call decides nothing. Default: True.
        check_finite: whether NaN or infinity stops at once. Default: True.
        stopping_threshold: stop at once when the value is better than this. Default: None.
        divergence_threshold: stop at once when the value is worse than this. Default: None.
        relative: whether `min_delta` is a share of the best value. Default: False.
        model: its best weights (and buffers) are kept, a copy on its own device, and loaded when this stops, or what
            it is composed into. Where a run ends otherwise, call `restore`. Default: None.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> stop = EarlyStopping("val_loss", patience=5, model=model)
        >>> stop(val_loss=0.3)
        False
    """

    def __init__(
        self,
        monitor: str,
        min_delta: float = 0.0,
        patience: int = 3,
        mode: str = "min",
        strict: bool = True,
        check_finite: bool = True,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
        relative: bool = False,
        model: nn.Module | None = None,
    ) -> None:
        super().__init__(monitor, min_delta, patience, mode, relative)
        self.strict = strict
        self.check_finite = check_finite
        self.stopping_threshold = stopping_threshold
        self.divergence_threshold = divergence_threshold
        self.model = model

    def decide(self, values: dict[str, float]) -> str:
        if self.monitor not in values and not self.strict:
            return ""
        value = self.value(values, self.monitor)
        if self.check_finite and not math.isfinite(value):
            return f"{self.monitor} is {value}"
        no_improvement = super().decide(values)
        if self.stopping_threshold is not None and self.sign * value < self.sign * self.stopping_threshold:
            return f"{self.monitor} reached {value:.4g}, better than {self.stopping_threshold:g}"
        if self.divergence_threshold is not None and self.sign * value > self.sign * self.divergence_threshold:
            return f"{self.monitor} is {value:.4g}, worse than {self.divergence_threshold:g}"
        return no_improvement

    def finish(self) -> None:
        self.restore()

    def improved(self) -> None:
        if self.model is not None:
            self.memory["weights"] = {
                name: value.detach().clone() if isinstance(value, Tensor) else value
                for name, value in self.model.state_dict().items()
            }

    def restore(self) -> None:
        """Loads the best weights into the model; nothing without a model, or before the first value."""
        if self.model is not None and "weights" in self.memory:
            self.model.load_state_dict(self.memory["weights"])


def _at_least_1(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"Invalid {name}: {value}; it must be 1 or more")
    return value


def _sign(mode: str) -> int:
    if mode not in ("min", "max"):
        raise ValueError(f"Invalid mode: {mode!r}; it must be 'min' or 'max'")
    return 1 if mode == "min" else -1
