"""The monitor and the stopping criteria as callbacks of other libraries' trainers.

Each library has a module of its own with a `ConvergenceMonitor`. Only that module imports the library, so `torch_gd`
needs neither of them.

| module | trainer | what it adds to the logs |
|---|---|---|
| `torch_gd.callbacks.lightning` | Lightning's `Trainer` | gradient norm and update ratio |
| `torch_gd.callbacks.huggingface` | `Trainer` of Hugging Face transformers | update ratio |

```python
from lightning.pytorch import Trainer
from torch_gd.callbacks.lightning import ConvergenceMonitor
from torch_gd.convergence import Diverged, EarlyStopping

stop = EarlyStopping("val_loss", patience=5) | Diverged(monitor="val_loss")
trainer = Trainer(max_epochs=100, callbacks=[ConvergenceMonitor(every=50, stop=stop)])
```

Both print the report of `torch_gd.Monitor` when training ends, and take any criterion of `torch_gd.convergence` as
`stop`. After a run, `callback.monitor` holds the monitor with all losses and statistics. In a distributed run all ranks
decide as one: the metrics that `stop` is given are averaged over them, and they stop when one would.

## Optimizers and schedules in a trainer

Trainers put a wrapper around the optimizer. To change its clip policy during a run:

| in | write |
|---|---|
| Lightning's `LightningModule` | `self.optimizers().clip = policy`, also with Fabric |
| a loop with accelerate | `optimizer.optimizer.clip = policy`: its wrapper would keep the policy to itself |

A schedule of `torch_gd.lr_scheduler` goes where one of torch's goes: into `configure_optimizers`, into
`Trainer(optimizers=(optimizer, scheduler))` and into `accelerator.prepare`. `GreedyLR`, whose step takes a metric, goes
where `ReduceLROnPlateau` does; Lightning wants the metric's name as `monitor` with it, and Hugging Face's Trainer as
`metric_for_best_model`.
"""
