r"""See a run converge: what goes wrong, in words and in data, and when to stop.

```python
import itertools

import torch
import torch_gd
from torch_gd.convergence import EarlyStopping, MaxEpochs, Monitor, TimeBudget

x = torch.randn(40, 4)
y = x.sum(1, keepdim=True)
model = torch.nn.Linear(4, 1)
loss_fn = torch.nn.functional.mse_loss
optimizer = torch_gd.SGD(model.parameters(), lr=0.1)

monitor = Monitor(optimizer, model, every=10)  # statistics at every 10th step of any torch optimizer
stop = MaxEpochs(10) | EarlyStopping("val_loss", model=model) | TimeBudget(hours=2)
for epoch in itertools.count(1):
    for batch in (slice(0, 16), slice(16, 32)):
        loss = loss_fn(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        monitor.train_loss(loss)  # does not wait for the GPU
    with torch.no_grad():
        val_loss = loss_fn(model(x[32:]), y[32:])
    monitor.validation_loss(val_loss)
    if stop(epoch=epoch, val_loss=val_loss):  # the model has its best weights again
        break
print(stop.reason, monitor.report(), sep="\n")
```

## What goes wrong

`Monitor.report()` says it in words, `Monitor.verdicts()` as data.

| verdict | criterion |
|---|---|
| diverging | the loss has risen again by half of its fall, or is not finite |
| oscillating | half of the variance is in one frequency, and the swing is larger than the fall |
| crawling | the loss falls along a straight line, by less than 10 % so far; or stands still, as do the weights |
| plateau | the last two quarters of the run differ by under 5 % of the loss and 1 % of its fall, noise included |
| over-fitting | validation loss 5 % above its lowest, three times in a row, while training loss falls |
| vanishing gradients | a layer's root-mean-square gradient is below 1e-5 of the largest layer's, and not 0 |
| exploding gradients | a layer's root-mean-square gradient is above 100 times the weights' |
| dead parameters | a gradient of zeros in the last recorded steps: whole parameters, or a tenth of a weight's units |
| non-finite parameters | infinity or NaN in the weights |

A verdict needs evidence: where noise could hide the opposite, there is none, and the report says what it is too early
to judge. Three things look alike, and only the optimizer's steps tell them apart, so pass `optimizer` and `model`:

- A loss that has never fallen may be stuck, at a minimum, or at a rate that is too small. If all steps together have
  moved the weights by less than 1 % of their norm, the run crawls.
- A gradient of zeros is not one that vanishes: units have died, as at a rate that is too large, or take no part.
- A row of a weight without gradient is a dead unit, or in an embedding a token that is in no batch.

The thresholds come from synthetic curves and small runs. A step that is not recorded costs a comparison. A step that is
recorded costs a copy of the parameters and three passes of norms; choose `every` accordingly.

`examples/overfitting.py` and `examples/depth.py` provoke over-fitting, vanishing and exploding gradients, and show what
helps; `examples/batch_variants.py` compares batch, mini-batch and stochastic gradient descent.

## When to stop

| criterion | stops |
|---|---|
| `MaxEpochs`, `MaxSteps`, `TimeBudget` | after a number of epochs or steps, or after some time |
| `TargetLoss` | when a loss or a metric has reached a value |
| `Diverged` | when a loss is not finite, or has risen far above the first one |
| `NoImprovement` | when a loss has not improved for some time |
| `EarlyStopping` | as `NoImprovement`; the arguments that decide and their defaults are Lightning's |

Criteria compose: `a | b` is an `AnyOf`, which stops as soon as one of them does, and `a & b` is an `AllOf`, which stops
when both do. Values are passed by name, and each criterion takes those that it needs. `reason` says in words why it
stopped.
With `model=`, `EarlyStopping` keeps a copy of the best weights and loads it when the run stops, whichever criterion
stopped it. Criteria have a `state_dict` for checkpoints. A criterion of your own implements `Criterion.decide`.

## Logs and trainers

`log_scalars(writer, monitor.scalars(), step)` writes the latest numbers to TensorBoard's `SummaryWriter` or to a
`CSVWriter`, whose file `read_csv` reads. A run that is resumed goes on with its log: `CSVWriter(path, append=True,
purge_step=N)` takes out what had been written from step N on. `torch_gd.callbacks` has the monitor and the criteria as
callbacks of Lightning's and Hugging Face's trainers.

## More than one process

Under FSDP2, tensor parallel and `DistributedDataParallel`, make a `Monitor` on every rank, with the same `every`. Its
norms and dead units are those of whole parameters, the same on every rank. They are added up in the step, in one
all-reduce for each set of process groups, so that any rank alone may read them: `report()`, `scalars()` and
`statistics` communicate nothing. Losses stay those that the rank has given.
So one rank can write the log: make the writer where `torch.distributed.get_rank()` is 0, and call `log_scalars` there.

Ranks must stop together: one that goes on alone waits for the others for ever. Where `EarlyStopping` has a `model=`
that is spread over ranks, all of them decide as one: each calls the criteria with its own values, which are averaged,
and all stop when one would, for example because its `TimeBudget` is used up. Each keeps and restores the shards that it
holds. Without such a model, say so: `stop.groups = (torch.distributed.group.WORLD,)`. To ask a criterion on one rank
alone, pass `model=ddp.module`, or no model.

FSDP1 and pipeline stages give each rank parameters of its own, and a monitor shows those of its rank.

## How the files fit

`monitor.py` collects. It keeps losses in a `Series` (`series.py`), which leaves them on their device, and has
`statistics.py` record the steps of the optimizer; `whole.py` adds up what ranks hold of a parameter. `curves.py` and
`gradients.py` have the checks, as functions with their thresholds beside them; a check returns a `Verdict`
(`verdict.py`) or None. `criterion.py` says what a stopping criterion is and how criteria compose, `criteria.py` and
`early_stopping.py` have the criteria. `divergence.py` is what checks and criteria share. `logs.py` has the CSV writer,
`log_files.py` reads its files and mends them. `checks.py` refuses wrong arguments.

Example:
    >>> from torch_gd.convergence import Diverged, EarlyStopping, MaxEpochs, Monitor
    >>> monitor = Monitor()
    >>> stop = MaxEpochs(100) | EarlyStopping("val_loss", patience=2) | Diverged(monitor="val_loss")
    >>> for epoch in range(1, 101):
    ...     monitor.train_loss(2.0 / epoch)
    ...     val_loss = 1.0 + 0.1 * abs(epoch - 5)
    ...     monitor.validation_loss(val_loss)
    ...     if stop(epoch=epoch, val_loss=val_loss):
    ...         break
    >>> stop
    MaxEpochs(100) | EarlyStopping('val_loss', patience=2) | Diverged(monitor='val_loss')
    >>> stop.reason
    'val_loss has not improved on 1 in 2 records'
    >>> print(monitor.report())
    training loss: 2 at first, 0.2857 after 7 records
    validation loss: 1.2, at best 1
    nothing wrong was found
    too early to judge: the training loss (7 records of 20)
"""

from .criteria import Diverged, MaxEpochs, MaxSteps, NoImprovement, TargetLoss, TimeBudget
from .criterion import AllOf, AnyOf, Criterion
from .early_stopping import EarlyStopping
from .logs import CSVWriter, log_scalars, read_csv
from .monitor import Monitor
from .statistics import StepRecorder, StepStatistics
from .verdict import Verdict

__all__ = [
    "AllOf",
    "AnyOf",
    "CSVWriter",
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
    "log_scalars",
    "read_csv",
]
