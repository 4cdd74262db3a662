"""The monitor as a callback of Lightning's `Trainer`."""

from typing import Any

from torch import Tensor

try:
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.utilities import rank_zero_info
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "torch_gd.callbacks.lightning needs Lightning, which is not installed: pip install lightning"
    ) from error

from .._arguments import Described
from ..convergence import Criterion, Monitor
from ..convergence.statistics import are_related
from .checks import check, decide_as_one


class ConvergenceMonitor(Described, Callback):
    """A callback that watches a run of Lightning's `Trainer`.

    It logs gradient norm and update ratio, and prints the report at the end. The training loss is what `training_step`
    returns, the validation loss is the metric named `validation_loss`, and the first optimizer that trains something is
    watched. `monitor` holds the `torch_gd.Monitor` of the last run.

    Args:
        every: statistics are recorded at every N-th optimizer step, and logged at the trainer's `log_every_n_steps`.
            Default: 10.
        validation_loss: the name under which the validation loss is logged. Default: "val_loss".
        stop: a criterion, which is asked after each validation. It is given every metric that is logged, and `epoch`
            and `step`, both counted from 1. Default: None.
        report: whether to print the report when training ends. Default: True.
        prefix: the prefix of the names that are logged. Default: "convergence/".

    Raises:
        TypeError: an argument is of another kind.
        ValueError: `every` is below 1 or no whole number.

    Example:
        >>> from torch_gd.callbacks.lightning import ConvergenceMonitor
        >>> from torch_gd.convergence import Diverged, MaxSteps
        >>> callback = ConvergenceMonitor(every=50, stop=MaxSteps(1000) | Diverged(monitor="val_loss"))
        >>> callback  # for Trainer(callbacks=[callback])
        ConvergenceMonitor(every=50, stop=MaxSteps(1000) | Diverged(monitor='val_loss'))
    """

    def __init__(
        self,
        every: int = 10,
        validation_loss: str = "val_loss",
        stop: Criterion | None = None,
        report: bool = True,
        prefix: str = "convergence/",
    ) -> None:
        super().__init__()
        self.every = check(every, validation_loss, stop, report, prefix)
        self.validation_loss, self.stop = validation_loss, stop
        self.report, self.prefix = report, prefix
        self.monitor: Monitor | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        decide_as_one(self.stop)
        # Where a module does without an optimizer, Lightning puts in one that trains nothing.
        trained = [o for o in trainer.optimizers if any(p.requires_grad for g in o.param_groups for p in g["params"])]
        if not trained:
            self.monitor = Monitor()
            return
        # Some strategies give the optimizer parameters of their own, which the module cannot name.
        names = pl_module if are_related(trained[0], pl_module) else None
        self.monitor = Monitor(trained[0], names, every=self.every)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self.monitor is not None
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):
            # Lightning has divided the loss by the number of batches that a step accumulates.
            self.monitor.train_loss(loss.detach() * trainer.accumulate_grad_batches)
        # Reading the records waits for a GPU. The trainer waits too when it logs, so they are read only then.
        interval = max(getattr(trainer, "log_every_n_steps", 50), 1)
        if trainer.global_step % interval == 0 and (records := self.monitor.statistics):
            latest = records[-1]
            values = {"grad_norm": latest.grad_norm, "update_ratio": latest.update_ratio}
            pl_module.log_dict({self.prefix + name: value for name, value in values.items()})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.monitor is None or trainer.sanity_checking:
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if self.validation_loss in metrics:
            self.monitor.validation_loss(metrics[self.validation_loss])
        if self.stop is not None:
            metrics |= {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
            if self.stop(**metrics):
                trainer.should_stop = True
                rank_zero_info(f"stopped: {self.stop.reason}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self.monitor is not None
        if self.report:
            rank_zero_info(self.monitor.report())
        self.monitor.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.monitor is not None:
            self.monitor.close()

    def state_dict(self) -> dict[str, Any]:
        return {} if self.stop is None else {"stop": self.stop.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.stop is not None and "stop" in state_dict:
            self.stop.load_state_dict(state_dict["stop"])
