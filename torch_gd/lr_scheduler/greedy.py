"""`GreedyLR`: a learning rate that follows a metric."""

import math
from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau, _param_groups_val_list, _update_param_group_val

from .._arguments import Described, as_optimizer, count, number, real
from . import checks


class GreedyLR(Described, ReduceLROnPlateau):
    """A schedule that raises the learning rate while a metric improves, and lowers it while it does not.

    The learning rate is divided by `factor` after more than `patience` improvements in a row, and multiplied by it
    after as many failures. Arguments and values are those of transformers' `GreedyLR` (https://arxiv.org/abs/2512.14527).

    It is a `ReduceLROnPlateau`: this is how Hugging Face's Trainer and Lightning know that `step` takes a metric.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        mode: "min" if a lower metric is better, "max" if a higher one is. Default: "min".
        factor: in (0, 1). Default: 0.95.
        patience: a change needs more than this many improvements, or failures, in a row. Default: 10.
        threshold: how much better a metric must be to count as an improvement. Default: 1e-6.
        threshold_mode: "abs" if the threshold is a difference, "rel" if it is a share of the best. Default: "abs".
        cooldown: steps after a decrease in which nothing is counted. Default: 0.
        warmup: steps after an increase in which nothing is counted. Default: 0.
        min_lr: the lowest learning rate, one number for all groups or one for each. Default: 1e-3.
        max_lr: the highest learning rate, one number for all groups or one for each. Default: 1.
        eps: a change that is no greater than this is not made. Default: 1e-8.
        verbose: whether to print each change. Default: False.
        smooth: whether to judge the mean of the last `window_size` metrics. Default: False.
        window_size: the number of metrics in that mean. Default: 50.
        reset_start: after this many decreases with every group at its lowest, everything starts again. Default: 500.

    Raises:
        ValueError: an argument is out of range, or there are limits for another number of groups.
        TypeError: `optimizer` is not an optimizer, or an argument is no number.

    Example:
        >>> import torch, torch_gd
        >>> optimizer = torch_gd.SGD([torch.ones(2, requires_grad=True)], lr=0.1)
        >>> scheduler = torch_gd.lr_scheduler.GreedyLR(optimizer, factor=0.5, patience=1)
        >>> rates = []
        >>> for loss in (1.0, 0.9, 0.8, 0.8, 0.8, 0.8):
        ...     scheduler.step(loss)
        ...     rates.append(optimizer.param_groups[0]["lr"])
        >>> rates
        [0.1, 0.2, 0.2, 0.2, 0.1, 0.1]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.95,
        patience: int = 10,
        threshold: float = 1e-6,
        threshold_mode: str = "abs",
        cooldown: int = 0,
        warmup: int = 0,
        min_lr: float | Sequence[float] = 1e-3,
        max_lr: float | Sequence[float] = 1.0,
        eps: float = 1e-8,
        verbose: bool = False,
        smooth: bool = False,
        window_size: int = 50,
        reset_start: int = 500,
    ) -> None:
        self.optimizer = as_optimizer(optimizer, "it is the first argument")
        self.factor = real("factor", factor)
        if not 0 < self.factor < 1:
            theirs = "Factor should be < 1.0. " if self.factor >= 1 else ""  # transformers' text
            raise ValueError(f"{theirs}Invalid factor: {self.factor}; it must be in (0, 1)")
        self.mode = checks.choice("mode", mode, ("min", "max"))
        self.threshold_mode = checks.choice("threshold_mode", threshold_mode, ("abs", "rel"))
        self.threshold = real("threshold", threshold, finite=True)
        self.patience = count("patience", patience, least=0)
        self.cooldown = count("cooldown", cooldown, least=0)
        self.warmup = count("warmup", warmup, least=0)
        self.eps = number("eps", eps, finite=False)
        self.min_lrs, self.max_lrs = self._limits("min_lr", min_lr), self._limits("max_lr", max_lr)
        self.verbose, self.smooth = verbose, smooth
        self.window_size = count("window_size", window_size)
        self.reset_start = count("reset_start", reset_start, least=0)
        self.last_epoch = 0
        self._window: list[float] = []
        # The learning rates are read on the host. So is each metric, which decides what happens to them.
        self._initial_lrs = self._lrs()
        self._start_again()
        self._remember()

    def step(self, metrics: Any, epoch: int | None = None) -> None:  # type: ignore[override]  # as ReduceLROnPlateau's
        """Take in a metric, and change the learning rates if it is time to.

        Args:
            metrics: a number or a one-element tensor.
            epoch: the number of this step. Default: None, the next one.

        Raises:
            TypeError: `metrics` is not a number.
        """
        current = real("metrics", metrics)
        if self.smooth:
            self._window = [*self._window, current][-self.window_size :]
            current = math.fsum(self._window) / len(self._window)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        if self.in_cooldown:
            self.pause -= 1
        else:
            self._count(current)
        self._remember()

    def state_dict(self) -> dict[str, Any]:
        """Return where the run stands. The settings come from the constructor."""
        return {name: self.__dict__[name] for name in _STATE}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a saved run stands. Load the optimizer's state too, because it holds the learning rates.

        Raises:
            ValueError: the state is not that of a `GreedyLR` of this package.
            TypeError: it is no state.
        """
        checks.state(state_dict, *_STATE)
        self.__dict__.update({name: state_dict[name] for name in _STATE})

    @property
    def in_cooldown(self) -> bool:
        """Whether metrics are not counted, because the learning rates have just changed."""
        return self.pause > 0

    def _state(self) -> str:
        step = self.__dict__.get("last_epoch", 0)
        return f"step {step}, best metric {self.best:.4g}" if step > 0 else ""

    def _limits(self, name: str, limit: float | Sequence[float]) -> list[float]:
        """Return a limit for each group."""
        groups = len(self.optimizer.param_groups)
        if not isinstance(limit, (list, tuple)):
            return [number(name, limit, finite=False)] * groups
        if len(limit) != groups:
            raise ValueError(
                f"expected {groups} {name}s, got {len(limit)}. Invalid {name}: it must be one number for all of the "
                "optimizer's groups, or one for each"
            )
        return [number(f"{name}[{i}]", one, finite=False) for i, one in enumerate(limit)]

    def _start_again(self) -> None:
        """Forget the metrics, and every count of them."""
        self.best = math.inf if self.mode == "min" else -math.inf
        self.num_good_epochs = self.num_bad_epochs = self.pause = 0
        self.decreases_left = self.reset_start
        self._window = []

    def _count(self, current: float) -> None:
        """Count an improvement or a failure, and change the learning rates after enough of them."""
        if self._improves(current):
            self.best = current
            self.num_good_epochs, self.num_bad_epochs = self.num_good_epochs + 1, 0
        else:
            self.num_good_epochs, self.num_bad_epochs = 0, self.num_bad_epochs + 1
        if self.num_good_epochs > self.patience:
            self._set([min(lr / self.factor, high) for lr, high in zip(self._lrs(), self.max_lrs)])
            self.decreases_left = self.reset_start
            self.pause, self.num_good_epochs = self.warmup, 0
        elif self.num_bad_epochs > self.patience:
            self._decrease()
            self.pause, self.num_bad_epochs = self.cooldown, 0

    def _decrease(self) -> None:
        """Lower the learning rates; start again once they have been at their lowest for `reset_start` decreases."""
        lrs = self._lrs()
        # A learning rate that is already below its limit stays as it is.
        self._set([min(lr, max(lr * self.factor, low)) for lr, low in zip(lrs, self.min_lrs)])
        if all(lr <= low for lr, low in zip(self._lrs(), self.min_lrs)):
            self.decreases_left -= 1
            if self.decreases_left <= 0:
                self._start_again()
                self._set(self._initial_lrs, least=0.0)

    def _improves(self, current: float) -> bool:
        margin = self.threshold * (self.best if self.threshold_mode == "rel" else 1.0)
        return bool(current < self.best - margin if self.mode == "min" else current > self.best + margin)

    def _lrs(self) -> list[float]:
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def _set(self, lrs: Sequence[float], least: float | None = None) -> None:
        """Write the learning rates that change by more than `least`, which is `eps` by default."""
        least = self.eps if least is None else least
        for i, (group, old, new) in enumerate(zip(self.optimizer.param_groups, self._lrs(), lrs)):
            if abs(new - old) > least:
                _update_param_group_val(group, "lr", new)
                if self.verbose:
                    print(f"Step {self.last_epoch}: learning rate of group {i} set to {new:.4e}")

    def _remember(self) -> None:
        self._last_lr = _param_groups_val_list(self.optimizer, "lr")


_STATE = (
    "last_epoch",
    "_initial_lrs",
    "best",
    "num_good_epochs",
    "num_bad_epochs",
    "pause",
    "decreases_left",
    "_window",
    "_last_lr",
)
