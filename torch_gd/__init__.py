"""Gradient-descent optimizers that behave like torch's own, each step one fused multi-tensor launch.

Change the import and keep everything else: `import torch_gd as optim` stands for `import torch.optim as optim`. What
`torch.optim` has and this package does not replace is reachable here under the same name.

```python
import torch
import torch_gd
from torch_gd.lr_scheduler import CosineSchedule

model = torch.nn.Linear(8, 2)
optimizer = torch_gd.AdamW(model.parameters(), lr=3e-4, clip=1.0)
scheduler = CosineSchedule(optimizer, total_steps=3, warmup=1)
for _ in range(3):
    optimizer.zero_grad()
    model(torch.randn(4, 8)).pow(2).mean().backward()
    optimizer.step()
    scheduler.step()
print(torch_gd.explain(optimizer))  # what updates which tensors, and why
```

| guide | about |
|---|---|
| `torch_gd.optimizers` | the optimizers, which implementation runs, an optimizer of your own |
| `torch_gd.clipping` | clipping inside the step and before it, GradScaler, Lightning |
| `torch_gd.distributed` | more than one GPU |
| `torch_gd.lr_scheduler` | schedules with warm-up, and everything in `torch.optim.lr_scheduler` |
| `torch_gd.range_test` | finding the learning rate |
| `torch_gd.convergence` | what goes wrong in a run, when to stop, logs |
| `torch_gd.callbacks` | Lightning and Hugging Face's Trainer |
| `torch_gd.plot` | pictures |
| `torch_gd._engine` | how a step is carried out: the design |
| `torch_gd.triton_kernels` | the kernels |
"""

from typing import Any

import torch.optim

from . import clipping, convergence, distributed, lr_scheduler
from ._engine.precision import Precision
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
    LAMB,
    LARS,
    NAG,
    SGD,
    SGDW,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    FusedOptimizer,
    Lion,
    NAdam,
    RAdam,
    RMSProp,
    RMSprop,
    create_optimizer,
    explain,
    list_optimizers,
    param_groups_weight_decay,
    release_gradients,
    soft_threshold_,
)
from .range_test import LRRangeTest, lr_range_test

__version__ = "0.1.0"
__all__ = [
    "LAMB",
    "LARS",
    "NAG",
    "SGD",
    "SGDW",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "ClipAdaptive",
    "ClipByGlobalNorm",
    "ClipByValue",
    "ClipPolicy",
    "EarlyStopping",
    "FusedOptimizer",
    "LRRangeTest",
    "Lion",
    "Monitor",
    "NAdam",
    "Precision",
    "RAdam",
    "RMSProp",
    "RMSprop",
    "clip_grad_adaptive_",
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "clipping",
    "convergence",
    "create_optimizer",
    "distributed",
    "explain",
    "get_scheduler",
    "get_total_norm",
    "list_optimizers",
    "lr_range_test",
    "lr_scheduler",
    "param_groups_weight_decay",
    "release_gradients",
    "soft_threshold_",
]


def __getattr__(name: str) -> Any:
    try:
        return getattr(torch.optim, name)
    except AttributeError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}, nor has torch.optim") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *(name for name in dir(torch.optim) if not name.startswith("_"))})
