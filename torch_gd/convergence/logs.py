"""Write numbers to CSV files, with the methods of TensorBoard's `SummaryWriter`, so that either can be used."""

import csv
import time
from collections.abc import Iterable, Mapping
from os import PathLike
from types import TracebackType
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from .._arguments import Described

FIELDS = ("step", "tag", "value", "wall_time")


class ScalarWriter(Protocol):
    """What a log needs of a writer; `torch.utils.tensorboard.SummaryWriter` has it, and so has `CSVWriter`."""

    def add_scalar(self, tag: str, scalar_value: Any, global_step: int | None = None) -> None:
        """Write a number."""


class Scalar(NamedTuple):
    """A number that was written to a log."""

    step: int | None
    tag: str
    value: float
    wall_time: float  # seconds since 1970


class CSVWriter(Described):
    """A writer of numbers to a CSV file, a line for each: step, tag, value, wall_time.

    Its methods are those of `torch.utils.tensorboard.SummaryWriter` for numbers. A line is in the file as soon as it is
    flushed: after `flush_secs`, at `flush`, or at `close`.

    Args:
        path: the file.
        append: whether to add lines to a file that is there; otherwise it is overwritten. Default: False.
        flush_secs: the seconds between two flushes. Default: 120, as for `SummaryWriter`.

    Raises:
        ValueError: the file to append to is not such a log.

    Example:
        >>> import pathlib, tempfile
        >>> from torch_gd.convergence import CSVWriter
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "run.csv"
        ...     with CSVWriter(path) as writer:
        ...         writer.add_scalar("loss/train", 0.5, 1)
        ...     print(path.read_text())
        step,tag,value,wall_time
        1,loss/train,0.5,...
    """

    def __init__(self, path: str | PathLike[str], append: bool = False, flush_secs: float = 120) -> None:
        self.flush_secs = flush_secs
        self._file = open(path, "a+" if append else "w", newline="", encoding="utf-8")  # noqa: SIM115  closed by close
        self._csv = csv.writer(self._file)
        self._flushed = time.monotonic()
        self._file.seek(0)
        header = self._file.readline().strip() if append else ""
        if header not in ("", ",".join(FIELDS)):
            self._file.close()
            raise ValueError(f"Invalid path: {path} begins with {header!r}, not with {','.join(FIELDS)!r}")
        if not header:
            self._csv.writerow(FIELDS)

    def add_scalar(
        self,
        tag: str,
        scalar_value: float | Tensor,
        global_step: int | None = None,
        walltime: float | None = None,
        new_style: bool = False,
        double_precision: bool = False,
    ) -> None:
        """Write a number.

        `new_style` and `double_precision` say how TensorBoard stores a number; they change nothing here.
        """
        step = "" if global_step is None else global_step
        value = scalar_value.item() if isinstance(scalar_value, Tensor) else float(scalar_value)
        self._csv.writerow((step, tag, repr(value), time.time() if walltime is None else walltime))
        if time.monotonic() - self._flushed >= self.flush_secs:
            self.flush()

    def add_scalars(
        self,
        main_tag: str,
        tag_scalar_dict: Mapping[str, float | Tensor],
        global_step: int | None = None,
        walltime: float | None = None,
    ) -> None:
        """Write several numbers, each as `main_tag/tag`."""
        for tag, value in tag_scalar_dict.items():
            self.add_scalar(f"{main_tag}/{tag}", value, global_step, walltime)

    def flush(self) -> None:
        """Put the lines written so far into the file."""
        self._file.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Flush and close the file."""
        self._file.close()

    def _state(self) -> str:
        return "closed" if self._file.closed else ""

    def __enter__(self) -> "CSVWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def log_scalars(writer: ScalarWriter, scalars: Mapping[str, float | Tensor], step: int | None = None) -> None:
    """Write several numbers under their own names.

    Args:
        writer: a `SummaryWriter`, a `CSVWriter`, or another object with `add_scalar`.
        scalars: the numbers by tag, such as `Monitor.scalars()`.
        step: the step that they belong to. Default: None.

    Example:
        >>> import pathlib, tempfile
        >>> from torch_gd.convergence import CSVWriter, Monitor, log_scalars, read_csv
        >>> monitor = Monitor()
        >>> monitor.train_loss(0.5)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "run.csv"
        ...     with CSVWriter(path) as writer:
        ...         log_scalars(writer, monitor.scalars(), step=1)
        ...     [(scalar.step, scalar.tag, scalar.value) for scalar in read_csv(path)]
        [(1, 'loss/train', 0.5)]
    """
    for tag, value in scalars.items():
        writer.add_scalar(tag, value, step)


def read_csv(path: str | PathLike[str]) -> list[Scalar]:
    """Return what a `CSVWriter` wrote.

    Raises:
        ValueError: the file is not such a log.

    Example:
        >>> import pathlib, tempfile
        >>> from torch_gd.convergence import CSVWriter, read_csv
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "run.csv"
        ...     with CSVWriter(path) as writer:
        ...         writer.add_scalar("loss/train", 0.5, 1)
        ...         writer.add_scalar("loss/validation", 0.75, 1)
        ...     [scalar.value for scalar in read_csv(path) if scalar.tag == "loss/train"]
        [0.5]
    """
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        if tuple(next(rows, ())) != FIELDS:
            raise ValueError(f"Invalid path: {path} does not begin with {','.join(FIELDS)!r}")
        return [Scalar(int(step) if step else None, tag, float(value), float(wall)) for step, tag, value, wall in rows]


def curves(scalars: Iterable[Scalar]) -> dict[str, tuple[list[float], list[float]]]:
    """Return steps and values by tag, in the order in which they were written; a step that is missing is NaN."""
    by_tag: dict[str, tuple[list[float], list[float]]] = {}
    for step, tag, value, _ in scalars:
        steps, values = by_tag.setdefault(tag, ([], []))
        steps.append(float("nan") if step is None else step)
        values.append(value)
    return by_tag
