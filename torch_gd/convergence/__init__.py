"""Watching a run converge: what goes wrong, in words and data, and when to stop."""

from .monitor import Monitor
from .statistics import StepRecorder, StepStatistics
from .stopping import (
    AllOf,
    AnyOf,
    Criterion,
    Diverged,
    EarlyStopping,
    MaxEpochs,
    MaxSteps,
    NoImprovement,
    TargetLoss,
    TimeBudget,
)
from .verdict import Verdict

__all__ = [
    "AllOf",
    "AnyOf",
    "Criterion",
    "Diverged",
    "EarlyStopping",
    "MaxEpochs",
    "MaxSteps",
    "Monitor",
    "NoImprovement",
    "StepRecorder",
    "StepStatistics",
    "TargetLoss",
    "TimeBudget",
    "Verdict",
]
