"""Watching a run converge: what goes wrong, in words and data, and when to stop."""

from .monitor import Monitor
from .statistics import StepRecorder, StepStatistics
from .verdict import Verdict

__all__ = ["Monitor", "StepRecorder", "StepStatistics", "Verdict"]
