"""Early stopping that brings the best weights back."""

from typing import TYPE_CHECKING

from torch import Tensor, nn

from .._engine.sharing import groups_sharing
from . import checks
from .criteria import NoImprovement
from .divergence import has_risen, not_finite

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_RIGHT_NAMES = {
    "restore_best_weights": ("model", "pass model=…, whose best weights are brought back"),
    "baseline": ("stopping_threshold", "pass stopping_threshold=… or divergence_threshold=…"),
}


class EarlyStopping(NoImprovement):
    """Stops when a validation loss no longer improves, and brings the best weights back.

    The arguments that decide, and their defaults, are those of Lightning's `EarlyStopping`; `relative` and `model` are
    added, and those that only report (`verbose` and the like) are left out.

    Args:
        monitor: the name of the value to look at.
        min_delta: the improvement that does not count yet. Default: 0.
        patience: it stops after this many values in a row without an improvement. Default: 3.
        mode: "min" or "max". Default: "min".
        strict: whether a missing value is an error; otherwise such a call decides nothing. Default: True.
        check_finite: whether NaN or infinity stops at once. Default: True.
        stopping_threshold: stop at once when the value is better than this. Default: None.
        divergence_threshold: stop at once when the value is worse than this. Default: None.
        relative: whether `min_delta` is a share of the best value. Default: False.
        model: the model whose best weights and buffers are kept, as a copy on its own device. They are loaded when this
            criterion stops, or another that it is composed with. If the run ends otherwise, call `restore`. Of a model
            that is spread over ranks (FSDP, tensor parallel, `DistributedDataParallel`) each rank keeps what it holds,
            and all decide as one: every rank must call the criterion, each with its own value. Default: None.

    Raises:
        ValueError: an argument is out of range.
        TypeError: an argument is of another kind: `monitor` is not a name, for example, or `model` not a module.

    Example:
        >>> import torch
        >>> from torch_gd.convergence import EarlyStopping
        >>> model = torch.nn.Linear(1, 1)
        >>> stop = EarlyStopping("val_loss", patience=2, model=model)
        >>> for loss in (0.3, 0.2, 0.25, 0.4, 0.5):
        ...     _ = torch.nn.init.constant_(model.weight, loss)  # in place of an epoch of training
        ...     if stop(val_loss=loss):
        ...         break
        >>> round(model.weight.item(), 6), stop.reason
        (0.2, 'val_loss has not improved on 0.2 in 2 records')
    """

    _right_names = _RIGHT_NAMES

    def __init__(
        self,
        monitor: str,
        min_delta: float = 0.0,
        patience: int = 3,
        mode: str = "min",
        strict: bool = True,
        check_finite: bool = True,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
        relative: bool = False,
        model: nn.Module | None = None,
    ) -> None:
        super().__init__(monitor, min_delta, patience, mode, relative)
        self.strict = checks.flag("strict", strict)
        self.check_finite = checks.flag("check_finite", check_finite)
        self.stopping_threshold = _threshold("stopping_threshold", stopping_threshold)
        self.divergence_threshold = _threshold("divergence_threshold", divergence_threshold)
        self.model = None if model is None else checks.model(model)

    def decide(self, values: dict[str, float]) -> str:
        if self.monitor not in values and not self.strict:
            return ""
        value = self.value(values, self.monitor)
        if self.check_finite and (reason := not_finite(self.monitor, value)):
            return reason
        no_improvement = super().decide(values)
        if self.stopping_threshold is not None and self.sign * value < self.sign * self.stopping_threshold:
            return f"{self.monitor} reached {value:.4g}, better than {self.stopping_threshold:g}"
        if self.divergence_threshold is not None and has_risen(
            self.sign * value, self.sign * self.divergence_threshold
        ):
            return f"{self.monitor} is {value:.4g}, worse than {self.divergence_threshold:g}"
        return no_improvement

    def _all_groups(self) -> "tuple[ProcessGroup | None, ...]":
        # Weights of one epoch here and of another there would be no model.
        return self.groups if self.model is None else self.groups + groups_sharing(self.model)

    def finish(self) -> None:
        self.restore()

    def improved(self) -> None:
        if self.model is not None:
            self.memory["weights"] = {
                name: value.detach().clone() if isinstance(value, Tensor) else value
                for name, value in self.model.state_dict().items()
            }

    def restore(self) -> None:
        """Load the best weights into the model. Does nothing without a model, or before the first value."""
        if self.model is not None and "weights" in self.memory:
            self.model.load_state_dict(self.memory["weights"])


def _threshold(name: str, value: object) -> float | None:
    return None if value is None else checks.not_nan(name, value)
