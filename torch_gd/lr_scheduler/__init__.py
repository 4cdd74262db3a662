r"""Learning-rate schedules: a warm-up and a decay in one object, exact at every step.

```python
import torch
import torch_gd
from torch_gd.lr_scheduler import CosineSchedule, Warmup

model = torch.nn.Linear(4, 1)
optimizer = torch_gd.AdamW(model.parameters(), lr=3e-4)
scheduler = CosineSchedule(optimizer, total_steps=20, floor=0.1, warmup=Warmup(0.25, "cosine", start=0.01))
for step in range(20):
    x = torch.randn(8, 4)
    optimizer.zero_grad()
    torch.nn.functional.mse_loss(model(x), x.sum(1, keepdim=True)).backward()
    optimizer.step()
    scheduler.step()
```

A schedule works with any torch optimizer, ours or not. It is a closed form: the learning rate at step $n$ is the base
learning rate times `scheduler.factor(n)`, however step $n$ was reached. The base learning rate is the one that the
optimizer's groups have when their first schedule is made; torch keeps it in the group as `initial_lr`, and later
schedules start from it too. To give another one, set both `lr` and `initial_lr`.

## Which schedule

| schedule | after the warm-up |
|---|---|
| `ConstantSchedule` | the base learning rate |
| `LinearSchedule` | a straight line down to `floor` |
| `CosineSchedule` | half a cosine wave down to `floor` |
| `CosineRestartsSchedule` | cosine cycles with warm restarts, whose length may grow and whose peaks may shrink |
| `PolynomialSchedule` | a polynomial down to `floor` |
| `ExponentialSchedule` | a factor `gamma` at every step |
| `StepSchedule`, `MultiStepSchedule` | a factor `gamma` at equal distances, or at milestones |
| `InverseSqrtSchedule` | the inverse square root of the step |
| `WarmupStableDecaySchedule` | a plateau, and a short decay at the end of the run |
| `OneCycleSchedule` | up to the peak and down far below the start, with the momentum the other way |
| `Schedule` | a function of your own |
| `GreedyLR` | up while a metric improves, down while it does not |

`python -m torch_gd.plot schedules` draws them all.

- **`total_steps`** counts optimizer steps, warm-up included. The last value is held from there on.
- **`floor`** is a factor of the base learning rate, not a learning rate: 0.1 ends at a tenth of the peak.
- **`warmup`** is the same for all schedules. An int (`50`) is a number of steps, and a float (`0.05`) a fraction of the
  run, so `warmup=1` is one step. A `Warmup` also says the shape ("linear", "cosine", "exponential", "constant",
  "1-sqrt") and the factor to start from.

Names that other libraries use (`eta_min`, `min_lr`, `T_max`, `warmup_steps`, …) raise a `TypeError` that says the name
to use here.

## With other schedulers

Schedules stand in torch's `SequentialLR`. In `ChainedScheduler` the factors multiply; a schedule that starts from
exactly 0 goes first there. In a chain that is made after training, make ours before torch's, because ours start from
`initial_lr`.

A schedule may be made again: until the first step, the factors of all schedules that were made count; from there on,
only those of schedules that are stepped. After training, a new schedule starts anew, as torch's `LambdaLR` does.

A learning rate that is a tensor is filled in place, without waiting for the GPU, so that a compiled step is not
compiled again.

`get_scheduler` has the names, arguments and values of Hugging Face transformers for every step of the run; past its end
the last value is held. Everything in `torch.optim.lr_scheduler` is reachable here under its own name.

A run goes on from a checkpoint with the `state_dict` of both the schedule and the optimizer. The state holds where the
run stands and not the schedule's shape, so a resumed run may be made longer.

## How the files fit

`functions.py` has the shapes, as functions from a step to a factor. `schedule.py` turns such a function into a torch
scheduler, with the warm-up of `warmup.py`; `shares.py` tells what several schedules have put into one learning rate.
`decays.py`, `stages.py` and `one_cycle.py` have the schedules by name: each checks its arguments (`checks.py`) and
chooses a function. `right_names.py` knows what other libraries call the arguments. `by_name.py` is `get_scheduler`,
`named.py` has what it chooses from, and `greedy.py` is `GreedyLR`.

Example:
    >>> import torch, torch_gd
    >>> from torch_gd.lr_scheduler import CosineSchedule, Warmup
    >>> optimizer = torch_gd.AdamW([torch.ones(2, requires_grad=True)], lr=3e-4)
    >>> scheduler = CosineSchedule(optimizer, total_steps=1000, floor=0.1, warmup=Warmup(0.05, start=0.01))
    >>> [round(scheduler.factor(step), 3) for step in (0, 25, 50, 525, 1000, 2000)]
    [0.01, 0.505, 1.0, 0.55, 0.1, 0.1]
    >>> scheduler
    CosineSchedule(AdamW, total_steps=1000, floor=0.1, warmup=Warmup(length=0.05, ...)): step 0, factor 0.01
"""

from typing import Any

from torch.optim import lr_scheduler as _torch
from torch.optim.lr_scheduler import *  # noqa: F403
from torch.optim.lr_scheduler import LRScheduler as LRScheduler
from torch.optim.lr_scheduler import _LRScheduler as _LRScheduler

from .by_name import get_scheduler
from .decays import (
    ConstantSchedule,
    CosineSchedule,
    ExponentialSchedule,
    InverseSqrtSchedule,
    LinearSchedule,
    PolynomialSchedule,
)
from .greedy import GreedyLR
from .one_cycle import OneCycleSchedule
from .schedule import Schedule
from .stages import CosineRestartsSchedule, MultiStepSchedule, StepSchedule, WarmupStableDecaySchedule
from .warmup import Warmup

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
