"""Learning-rate schedules: warm-up, decay, and everything in `torch.optim.lr_scheduler` under its own name."""

from typing import Any

from torch.optim import lr_scheduler as _torch
from torch.optim.lr_scheduler import *  # noqa: F403
from torch.optim.lr_scheduler import LRScheduler as LRScheduler
from torch.optim.lr_scheduler import _LRScheduler as _LRScheduler

from .by_name import get_scheduler
from .decays import (
    ConstantSchedule,
    CosineRestartsSchedule,
    CosineSchedule,
    ExponentialSchedule,
    InverseSqrtSchedule,
    LinearSchedule,
    MultiStepSchedule,
    OneCycleSchedule,
    PolynomialSchedule,
    StepSchedule,
    WarmupStableDecaySchedule,
)
from .greedy import GreedyLR
from .schedule import Schedule, Warmup

__all__ = [
    *_torch.__all__,
    "ConstantSchedule",
    "CosineRestartsSchedule",
    "CosineSchedule",
    "ExponentialSchedule",
    "GreedyLR",
    "InverseSqrtSchedule",
    "LinearSchedule",
    "MultiStepSchedule",
    "OneCycleSchedule",
    "PolynomialSchedule",
    "Schedule",
    "StepSchedule",
    "Warmup",
    "WarmupStableDecaySchedule",
    "get_scheduler",
]


def __getattr__(name: str) -> Any:
    try:
        return getattr(_torch, name)
    except AttributeError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}, nor has {_torch.__name__}") from None
