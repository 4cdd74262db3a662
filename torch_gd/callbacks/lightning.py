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

from ..convergence import Criterion, Monitor


class ConvergenceMonitor(Callback):
    """Watches a run of Lightning's `Trainer`: logs gradient norm and update ratio, and prints the report at its end.

    The training loss is what `training_step` returns, the validation loss the metric named `validation_loss`. The first
    optimizer is watched. `monitor` holds the `torch_gd.Monitor` of the last run.

    Args:
        every: record statistics of every N-th optimizer step, and log them at the trainer's `log_every_n_steps`.
            Default: 10.
        validation_loss: name under which the validation loss is logged. Default: "val_loss".
        stop: a criterion, asked after each validation with every metric that is logged, and `epoch` and `step`, both
            counted from 1. Default: None.
        report: whether to print the report when training ends. Default: True.
        prefix: of the names that are logged. Default: "convergence/".

    Example:
        >>> trainer = Trainer(callbacks=[ConvergenceMonitor(stop=MaxSteps(1000) | Diverged(monitor="val_loss"))])
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
        self.every, self.validation_loss, self.stop = every, validation_loss, stop
        self.report, self.prefix = report, prefix
        self.monitor: Monitor | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.monitor = Monitor(trainer.optimizers[0], pl_module, every=self.every)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self.monitor is not None
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):
            # Lightning divides the loss by the batches that a step accumulates.
            self.monitor.train_loss(loss.detach() * trainer.accumulate_grad_batches)
        # Reading waits for a GPU, so only where the trainer logs, which waits as well.
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
