"""Write numbers to CSV files, with the methods of TensorBoard's `SummaryWriter`, so that either can be used."""

import csv
import time
from collections.abc import Iterable, Mapping
from os import PathLike
from types import TracebackType
from typing import Any, Protocol

from torch import Tensor

from .._arguments import Described, count, number, real, short
from . import checks
from .log_files import FIELDS, HEADER, Scalar, read, take_out


class ScalarWriter(Protocol):
    """What a log needs of a writer; `torch.utils.tensorboard.SummaryWriter` has it, and so has `CSVWriter`."""

    def add_scalar(self, tag: str, scalar_value: Any, global_step: int | None = None) -> None:
        """Write a number."""


class CSVWriter(Described):
    """A writer of numbers to a CSV file, a line for each: step, tag, value, wall_time.

    Its methods are those of `torch.utils.tensorboard.SummaryWriter` for numbers. A line is in the file as soon as it is
    flushed: after `flush_secs`, at `flush`, or at `close`.

    Args:
        path: the file.
        append: whether to add lines to a file that is there; otherwise it is overwritten. A last line that a killed
            process left unfinished is taken out. Default: False.
        flush_secs: the seconds between two flushes. Default: 120, as for `SummaryWriter`.
        purge_step: when appending, take out the lines of this step and of later ones, as `SummaryWriter` does. Pass the
            next step to be logged when a run is resumed from a checkpoint. Default: None, which takes out none.

    Raises:
        ValueError: the file to append to is not such a log, `flush_secs` or `purge_step` is negative, or `purge_step`
            is given for a file that is overwritten.
        TypeError: an argument is of another kind.

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

    def __init__(
        self,
        path: str | PathLike[str],
        append: bool = False,
        flush_secs: float = 120,
        purge_step: int | None = None,
    ) -> None:
        checks.path(path)
        self.flush_secs = number("flush_secs", flush_secs, finite=False)
        first = None if purge_step is None else count("purge_step", purge_step, least=0)
        if not checks.flag("append", append):
            if first is not None:
                raise ValueError(f"Invalid purge_step: {purge_step}; without append=True the whole file is overwritten")
            self._file = open(path, "w", newline="", encoding="utf-8")  # noqa: SIM115  closed by close
        else:
            take_out(path, first)
            self._file = open(path, "a", newline="", encoding="utf-8")  # noqa: SIM115
        self._csv = csv.writer(self._file)
        self._flushed = time.monotonic()
        if self._file.tell() == 0:
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

        `new_style` and `double_precision` say how TensorBoard stores a number; they change nothing here. As in
        TensorBoard's files a step is an int: the fraction of a float is left out.

        Raises:
            ValueError: the step is not finite.
            TypeError: the tag is no text, or one of the others no number. Nothing has been written.
        """
        if not isinstance(tag, str):
            raise TypeError(f"tag is {short(tag)}, not a name, such as 'loss/train'")
        step = "" if global_step is None else int(real("global_step", global_step, finite=True))
        value = _scalar("scalar_value", scalar_value)
        now = time.time() if walltime is None else real("walltime", walltime)
        self._csv.writerow((step, tag, repr(value), now))
        if time.monotonic() - self._flushed >= self.flush_secs:
            self.flush()

    def add_scalars(
        self,
        main_tag: str,
        tag_scalar_dict: Mapping[str, float | Tensor],
        global_step: int | None = None,
        walltime: float | None = None,
    ) -> None:
        """Write several numbers, each as `main_tag/tag`.

        Raises:
            ValueError, TypeError: as for `add_scalar`. Nothing has been written.
        """
        if not isinstance(main_tag, str):
            raise TypeError(f"main_tag is {short(main_tag)}, not a name, such as 'loss'")
        for tag, value in _scalars("tag_scalar_dict", tag_scalar_dict).items():
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

    Raises:
        TypeError: `writer` has no `add_scalar`, `scalars` is no mapping, a tag in it is no text, or a value no number.
            Nothing has been written.

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
    if not hasattr(writer, "add_scalar"):
        raise TypeError(f"writer is {short(writer)}, not a CSVWriter or SummaryWriter; it has no add_scalar")
    for tag, value in _scalars("scalars", scalars).items():
        writer.add_scalar(tag, value, step)


def read_csv(path: str | PathLike[str]) -> list[Scalar]:
    """Return what a `CSVWriter` wrote.

    A last line that a killed process left unfinished is left out.

    Raises:
        ValueError: the file is not such a log, or one of its lines cannot be read.
        TypeError: `path` is not the name of a file.

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
    header, scalars, _ = read(checks.path(path))
    if header != HEADER:
        raise ValueError(f"Invalid path: {path} begins with {header!r}, not with {HEADER!r}")
    return scalars


def curves(scalars: Iterable[Scalar]) -> dict[str, tuple[list[float], list[float]]]:
    """Return steps and values by tag, in the order in which they were written; a step that is missing is NaN."""
    by_tag: dict[str, tuple[list[float], list[float]]] = {}
    for step, tag, value, _ in scalars:
        steps, values = by_tag.setdefault(tag, ([], []))
        steps.append(float("nan") if step is None else step)
        values.append(value)
    return by_tag


def _scalars(name: str, scalars: object) -> dict[str, float]:
    """Return numbers by tag, all of them read before the first is written."""
    if not isinstance(scalars, Mapping):
        raise TypeError(f"{name} is {short(scalars)}, not a mapping from tags to numbers")
    for tag in scalars:
        if not isinstance(tag, str):
            raise TypeError(f"a tag of {name} is {short(tag)}, not a name, such as 'loss/train'")
    return {tag: _scalar(f"{name}[{tag!r}]", value) for tag, value in scalars.items()}


def _scalar(name: str, value: object) -> float:
    return float(value) if isinstance(value, bool) else real(name, value)
