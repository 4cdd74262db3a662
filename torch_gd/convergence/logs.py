"""Numbers to files: a CSV writer with the methods of TensorBoard's `SummaryWriter`, so that either serves."""

import csv
import time
from collections.abc import Iterable, Mapping
from os import PathLike
from types import TracebackType
from typing import Any, NamedTuple, Protocol

from torch import Tensor

FIELDS = ("step", "tag", "value", "wall_time")


class ScalarWriter(Protocol):
    """What a log needs of a writer: `torch.utils.tensorboard.SummaryWriter` has it, and so has `CSVWriter`."""

    def add_scalar(self, tag: str, scalar_value: Any, global_step: int | None = None) -> None:
        """Adds a number."""


class Scalar(NamedTuple):
    """A number that was written."""

    step: int | None
    tag: str
    value: float
    wall_time: float  # seconds since 1970


class CSVWriter:
    """Writes numbers to a CSV file, a line each: step, tag, value, wall_time.

    Its methods are those of `torch.utils.tensorboard.SummaryWriter` for numbers. A line is in the file once it is
    flushed: after `flush_secs`, at `flush`, or at `close`.

    Args:
        path: the file; an existing one is gone on with if `append`, else overwritten.
        append: Default: False.
        flush_secs: seconds between two flushes. Default: 120, as `SummaryWriter`'s.

    Raises:
        ValueError: a file to append to that is no such log.

    Example:
        >>> with CSVWriter("run.csv") as writer:
        ...     writer.add_scalar("loss/train", 0.5, 1)
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
        """Adds a number; `new_style` and `double_precision`, which say how TensorBoard stores it, change nothing."""
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
        """Adds several numbers, as `main_tag/tag`."""
        for tag, value in tag_scalar_dict.items():
            self.add_scalar(f"{main_tag}/{tag}", value, global_step, walltime)

    def flush(self) -> None:
        """Puts what was added into the file."""
        self._file.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Flushes and closes the file."""
        self._file.close()

    def __enter__(self) -> "CSVWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def log_scalars(writer: ScalarWriter, scalars: Mapping[str, float | Tensor], step: int | None = None) -> None:
    """Writes several numbers under their own names.

    Args:
        writer: a `SummaryWriter`, a `CSVWriter`, or what else has `add_scalar`.
        scalars: numbers by tag, such as `Monitor.scalars()`.
        step: the step they belong to. Default: None.

    Example:
        >>> log_scalars(writer, monitor.scalars(), step)
    """
    for tag, value in scalars.items():
        writer.add_scalar(tag, value, step)


def read_csv(path: str | PathLike[str]) -> list[Scalar]:
    """What a `CSVWriter` wrote.

    Raises:
        ValueError: a file that is no such log.

    Example:
        >>> losses = [scalar.value for scalar in read_csv("run.csv") if scalar.tag == "loss/train"]
    """
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        if tuple(next(rows, ())) != FIELDS:
            raise ValueError(f"Invalid path: {path} does not begin with {','.join(FIELDS)!r}")
        return [Scalar(int(step) if step else None, tag, float(value), float(wall)) for step, tag, value, wall in rows]


def curves(scalars: Iterable[Scalar]) -> dict[str, tuple[list[float], list[float]]]:
    """Steps and values by tag, in the order they were written; NaN for a step that was not given."""
    by_tag: dict[str, tuple[list[float], list[float]]] = {}
    for step, tag, value, _ in scalars:
        steps, values = by_tag.setdefault(tag, ([], []))
        steps.append(float("nan") if step is None else step)
        values.append(value)
    return by_tag
