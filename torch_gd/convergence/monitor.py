"""The monitor: collects losses and statistics, and says what goes wrong."""

import math
import statistics
from types import TracebackType

from torch import Tensor, nn
from torch.optim import Optimizer

from . import curves, gradients
from .series import Series
from .statistics import StepRecorder, StepStatistics
from .verdict import Verdict


class Monitor:
    """Watches a training run with any optimizer, and reports in words and data.

    ======================  ============================================================================================
    diverging               the loss has lost half of what it had gained, or is not finite
    oscillating             it swings with a period, by more than it falls: the rate is too large
    crawling                it falls along a straight line and has hardly fallen: the rate is too small
    plateau                 the second half of the run brought nothing
    over-fitting            validation loss more than 5 % above its lowest, three times running, while training falls
    vanishing gradients     a layer's gradient below 1e-5 of the largest layer's
    exploding gradients     a layer's gradient above 100 times the weights
    dead parameters         no gradient in the last recorded steps: whole parameters, or a tenth of a weight's units
    non-finite parameters   infinity or NaN in the weights
    ======================  ============================================================================================

    The exact criteria stand in `torch_gd.convergence.curves` and `torch_gd.convergence.gradients`. Nothing waits for a
    GPU until `verdicts`, `report`, `scalars` or `statistics` is asked for.

    Args:
        optimizer: whose steps are recorded. Default: None, losses only.
        model: names for its parameters. Default: None, the optimizer's own.
        every: record statistics of every N-th step; one that is recorded costs a copy of the parameters. Default: 10.
        window: losses averaged by the criteria, at most. Default: 50.
        keep: the last so many recorded steps are kept. Default: 1000.

    Raises:
        ValueError: `every`, `window` or `keep` out of range, or a `model` without an `optimizer`.

    Example:
        >>> monitor = torch_gd.Monitor(optimizer, model)
        >>> monitor.train_loss(loss)  # each step; monitor.validation_loss(loss) after each validation
        >>> print(monitor.report())
    """

    def __init__(
        self,
        optimizer: Optimizer | None = None,
        model: nn.Module | None = None,
        *,
        every: int = 10,
        window: int = 50,
        keep: int = 1000,
    ) -> None:
        if window < 5:
            raise ValueError(f"Invalid window: {window}; it must be 5 or more")
        if model is not None and optimizer is None:
            raise ValueError("model only names the optimizer's parameters; pass optimizer too")
        self.window = window
        self.recorder = None if optimizer is None else StepRecorder(optimizer, model, every=every, keep=keep)
        self._train = Series()
        self._validation = Series()
        self._validated_at: list[int] = []  # training losses recorded by then

    # --- What it is told ---------------------------------------------------------------------------------------------

    def train_loss(self, loss: float | Tensor) -> None:
        """Records a training loss: each step's, or each epoch's; not both."""
        self._train.append(loss)

    def validation_loss(self, loss: float | Tensor) -> None:
        """Records a validation loss; it is compared with the training losses since the one before."""
        self._validation.append(loss)
        self._validated_at.append(len(self._train))

    # --- What it knows -----------------------------------------------------------------------------------------------

    @property
    def train_losses(self) -> list[float]:
        """The training losses so far."""
        return list(self._train.values())

    @property
    def validation_losses(self) -> list[float]:
        """The validation losses so far."""
        return list(self._validation.values())

    @property
    def statistics(self) -> list[StepStatistics]:
        """The recorded steps, oldest first."""
        return [] if self.recorder is None else self.recorder.read()

    def verdicts(self) -> list[Verdict]:
        """What is wrong, most urgent first; empty where nothing is."""
        records = self.statistics
        sizes = {} if self.recorder is None else {n: p.numel() for n, p in self.recorder.parameters().items()}
        found = (
            gradients.not_finite(records),
            curves.training(self._train.values(), self.window),
            curves.overfitting(self._train_at_validation(), self._validation.values()),
            gradients.exploding(records, sizes),
            gradients.vanishing(records, sizes),
            gradients.dead(records, sizes),
        )
        return [verdict for verdict in found if verdict is not None]

    def scalars(self) -> dict[str, float]:
        """The latest numbers, for a log: losses, gradient norm, update-to-weight ratio, both also by parameter."""
        latest: dict[str, float] = {}
        if len(self._train) > 0:
            latest["loss/train"] = self._train.values()[-1]
        if len(self._validation) > 0:
            latest["loss/validation"] = self._validation.values()[-1]
        records = self.statistics
        if records:
            latest["grad_norm"] = records[-1].grad_norm
            latest["update_ratio"] = records[-1].update_ratio
            latest |= {f"grad_norm/{name}": norm for name, norm in records[-1].grad_norms.items()}
            latest |= {f"update_ratio/{name}": ratio for name, ratio in records[-1].update_ratios().items()}
        return latest

    def report(self) -> str:
        """The state of the run and every verdict, a line each."""
        lines = []
        losses = self._train.values()
        if losses:
            lines.append(f"training loss: {losses[0]:.4g} at first, {losses[-1]:.4g} after {len(losses)} records")
        validation = self._validation.values()
        if validation:
            lines.append(f"validation loss: {validation[-1]:.4g}, at best {min(validation):.4g}")
        records = self.statistics
        if records:
            ratios = [r.update_ratio for r in records if math.isfinite(r.update_ratio)]
            ratio = f"{statistics.median(ratios):.1e}" if ratios else "unknown"
            lines.append(f"gradient norm: {records[-1].grad_norm:.4g}; update-to-weight ratio: {ratio} (median)")
        verdicts = self.verdicts()
        lines += map(str, verdicts) if verdicts else ["nothing wrong was found"]
        return "\n".join(lines)

    def close(self) -> None:
        """Takes its hooks off the optimizer; what was recorded stays readable."""
        if self.recorder is not None:
            self.recorder.close()

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _train_at_validation(self) -> list[float]:
        """Mean training loss between validations; NaN where none was recorded."""
        losses = self._train.values()
        starts = [0, *self._validated_at]
        return [statistics.fmean(losses[a:b]) if b > a else math.nan for a, b in zip(starts, self._validated_at)]
