"""`Monitor`: collect losses and statistics, and say what goes wrong."""

import math
import statistics
from types import TracebackType

from torch import Tensor, nn
from torch.optim import Optimizer

from .._arguments import Described, count
from . import curves, gradients
from .series import Series
from .statistics import StepRecorder, StepStatistics
from .verdict import Verdict


class Monitor(Described):
    """A watcher of a training run with any optimizer, which reports in words and in data.

    The verdicts and what each rests on stand in the guide, `torch_gd.convergence`.
    Nothing waits for a GPU until `verdicts`, `report`, `scalars` or `statistics` is asked for. Of a model that is
    spread over ranks (FSDP2, tensor parallel), every rank must have a monitor, with the same `every`; any may read its
    own.

    Args:
        optimizer: the optimizer whose steps are recorded. Default: None, which watches losses only.
        model: the model, which gives parameters their names and says which of them are embeddings. Default: None,
            which takes the optimizer's own names.
        every: statistics are recorded at every N-th step; such a step costs a copy of the parameters. Default: 10.
        window: the checks average at most this many losses. Default: 50.
        keep: the number of latest recorded steps that are kept. Default: 1000.

    Raises:
        ValueError: `every`, `window` or `keep` is out of range or no whole number, there is a `model` but no
            `optimizer`, or none of the model's parameters is the optimizer's.
        TypeError: `optimizer` or `model` is of another kind, for example because they are swapped, or one of the others
            is no number.

    Example:
        >>> import torch, torch_gd
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch_gd.SGD(model.parameters(), lr=0.01)
        >>> monitor = torch_gd.Monitor(optimizer, model, every=50)
        >>> for _ in range(3):
        ...     loss = model(torch.ones(1, 2)).square().sum()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        ...     monitor.train_loss(loss)
        >>> monitor
        Monitor(optimizer=SGD, model=Linear, every=50): training losses: 3, validation losses: 0, recorded steps: 1
        >>> print(monitor.report())
        training loss: ... at first, ... after 3 records
        gradient norm: ...; update-to-weight ratio: ... (median)
        too early to judge: the training loss (3 records of 20), gradients (1 records of 3)
        >>> monitor.close()
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
        self.window = count("window", window, least=5)
        every, keep = count("every", every), count("keep", keep)
        if model is not None and optimizer is None:
            raise ValueError("Invalid model: it only names the optimizer's parameters; pass optimizer too")
        self.recorder = None if optimizer is None else StepRecorder(optimizer, model, every=every, keep=keep)
        self._named = model is not None
        self._train = Series()
        self._validation = Series()
        self._validated_at: list[int] = []  # number of training losses before each validation

    def train_loss(self, loss: float | Tensor) -> None:
        """Record a training loss: that of each step or that of each epoch, but not both. Each rank records its own."""
        self._train.append(loss)

    def validation_loss(self, loss: float | Tensor) -> None:
        """Record a validation loss; it is compared with the training losses since the last one."""
        self._validation.append(loss)
        self._validated_at.append(len(self._train))

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
        """Return what is wrong, most urgent first; an empty list if there is no evidence of anything."""
        records = self.statistics
        sizes = {} if self.recorder is None else self.recorder.sizes
        moved = math.inf if self.recorder is None else gradients.moved(records, self.recorder.steps)
        found = (
            gradients.not_finite(records),
            curves.training(self._train.values(), self.window, moved),
            curves.overfitting(self._train_at_validation(), self._validation.values()),
            gradients.exploding(records, sizes),
            gradients.vanishing(records, sizes),
            gradients.dead(records, sizes, named=self._named),
        )
        return [verdict for verdict in found if verdict is not None]

    def scalars(self) -> dict[str, float]:
        """Return the latest numbers for a log: losses, gradient norm and update ratio, these two also by parameter."""
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
        """Return the state of the run, every verdict and what it is too early to judge, a line for each."""
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
        # The name of each check, how many numbers it has and how many it needs.
        checked = [("the training loss", len(losses), curves.SHORTEST)]
        checked += [("over-fitting", len(validation), curves.PATIENCE + 1)] if validation else []
        checked += [("gradients", len(records), gradients.DEAD_STEPS)] if self.recorder is not None else []
        early = [f"{name} ({count} records of {needed})" for name, count, needed in checked if count < needed]
        lines += map(str, verdicts)
        if not verdicts and len(early) < len(checked):
            lines.append("nothing wrong was found")
        if early:
            lines.append(f"too early to judge: {', '.join(early)}")
        return "\n".join(lines)

    def close(self) -> None:
        """Remove the hooks from the optimizer; what was recorded stays readable."""
        if self.recorder is not None:
            self.recorder.close()

    def _state(self) -> str:
        if "_validated_at" not in self.__dict__:  # the constructor has not come so far
            return ""
        parts = [f"training losses: {len(self._train)}", f"validation losses: {len(self._validation)}"]
        if self.recorder is not None:
            parts.append(f"recorded steps: {self.recorder.recorded}")
        return ", ".join(parts)

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _train_at_validation(self) -> list[float]:
        """Return the mean training loss between validations; NaN where none was recorded."""
        losses = self._train.values()
        starts = [0, *self._validated_at]
        return [statistics.fmean(losses[a:b]) if b > a else math.nan for a, b in zip(starts, self._validated_at)]
