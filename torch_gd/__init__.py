"""Gradient-descent optimizers that are torch's own in behaviour, each step one fused multi-tensor launch.

What `torch.optim` has and this package does not replace is reachable here under the same name, so that
`import torch_gd as optim` stands for `import torch.optim as optim`.
"""

from typing import Any

import torch.optim

from . import clipping, convergence, lr_scheduler
from .clipping import (
    ClipAdaptive,
    ClipByGlobalNorm,
    ClipByValue,
    ClipPolicy,
    clip_grad_adaptive_,
    clip_grad_norm_,
    clip_grad_value_,
    clip_grads_with_norm_,
    get_total_norm,
)
from .convergence import EarlyStopping, Monitor
from .lr_scheduler import get_scheduler
from .optimizers import (
    NAG,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    FusedOptimizer,
    RMSProp,
    RMSprop,
    param_groups_weight_decay,
    soft_threshold_,
)
from .range_test import LRRangeTest, lr_range_test

__version__ = "0.1.0"
__all__ = [
    "NAG",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "ClipAdaptive",
    "ClipByGlobalNorm",
    "ClipByValue",
    "ClipPolicy",
    "EarlyStopping",
    "FusedOptimizer",
    "LRRangeTest",
    "Monitor",
    "RMSProp",
    "RMSprop",
    "clip_grad_adaptive_",
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "clipping",
    "convergence",
    "get_scheduler",
    "get_total_norm",
    "lr_range_test",
    "lr_scheduler",
    "param_groups_weight_decay",
    "soft_threshold_",
]


def __getattr__(name: str) -> Any:
    try:
        return getattr(torch.optim, name)
    except AttributeError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}, nor has torch.optim") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *(name for name in dir(torch.optim) if not name.startswith("_"))})
