"""The monitor as a callback of Hugging Face's `Trainer`."""

from typing import Any

from torch import nn
from torch.optim import Optimizer

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "torch_gd.callbacks.huggingface needs transformers, which is not installed: pip install transformers"
    ) from error

from .._arguments import Described
from ..convergence import Criterion, Monitor
from ..convergence.statistics import are_related
from .checks import check, decide_as_one


class ConvergenceMonitor(Described, TrainerCallback):
    """A callback that watches a run of Hugging Face's `Trainer`.

    It adds the update ratio to the trainer's logs, and prints the report at the end. The training loss is the trainer's
    own, a mean over `logging_steps`, and the validation loss is `eval_loss`. `monitor` holds the `torch_gd.Monitor` of
    the last run. Gradients are measured as the optimizer's step finds them: by default the trainer has then clipped
    them to norm 1.

    Args:
        every: statistics are recorded at every N-th optimizer step. Default: 10.
        validation_loss: the name under which the trainer logs the validation loss. Default: "eval_loss".
        stop: a criterion, which is asked after each evaluation. It is given the metrics, and `epoch` and `step` as the
            trainer counts them. Default: None.
        report: whether to print the report when training ends. Default: True.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: `every` is below 1 or no whole number.

    Example:
        >>> from torch_gd.callbacks.huggingface import ConvergenceMonitor
        >>> from torch_gd.convergence import EarlyStopping
        >>> callback = ConvergenceMonitor(every=50, stop=EarlyStopping("eval_loss", patience=5))
        >>> callback  # for Trainer(model, args, callbacks=[callback])
        ConvergenceMonitor(every=50, stop=EarlyStopping('eval_loss', patience=5))
    """

    def __init__(
        self,
        every: int = 10,
        validation_loss: str = "eval_loss",
        stop: Criterion | None = None,
        report: bool = True,
    ) -> None:
        self.every = check(every, validation_loss, stop, report)
        self.validation_loss, self.stop, self.report = validation_loss, stop, report
        self.monitor: Monitor | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        decide_as_one(self.stop)
        optimizer, model = kwargs.get("optimizer"), kwargs.get("model")
        # accelerate passes a wrapper, whose step calls that of the optimizer inside.
        optimizer = getattr(optimizer, "optimizer", optimizer)
        if isinstance(optimizer, Optimizer):
            # Some strategies give the optimizer parameters of their own, which the model cannot name.
            names = model if isinstance(model, nn.Module) and are_related(optimizer, model) else None
            self.monitor = Monitor(optimizer, names, every=self.every)
        else:
            self.monitor = Monitor()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.monitor is None or logs is None or "loss" not in logs:
            return
        self.monitor.train_loss(float(logs["loss"]))
        if self.monitor.statistics:
            logs["update_ratio"] = self.monitor.statistics[-1].update_ratio
            # Later callbacks see `logs`, but the trainer has already copied it to its history.
            if state.log_history and state.log_history[-1].get("step") == state.global_step:
                state.log_history[-1]["update_ratio"] = logs["update_ratio"]

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        numbers = {name: float(value) for name, value in (metrics or {}).items() if isinstance(value, (int, float))}
        if self.monitor is not None and self.validation_loss in numbers:
            self.monitor.validation_loss(numbers[self.validation_loss])
        if self.stop is not None:
            numbers |= {"epoch": float(state.epoch or 0.0), "step": float(state.global_step)}
            if self.stop(**numbers):
                control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.monitor is None:
            return
        self.monitor.close()
        if self.report and state.is_world_process_zero:
            print(self.monitor.report())
        if self.report and self.stop is not None and self.stop.reason and state.is_world_process_zero:
            print(f"stopped: {self.stop.reason}")
