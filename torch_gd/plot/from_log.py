"""Read an example's log, for the pictures that are drawn from one."""

import argparse
import csv
from math import isfinite

from ..convergence.logs import curves, read_csv
from .arguments import UsageError

Curves = dict[str, dict[str, tuple[list[float], list[float]]]]


def add_log_argument(parser: argparse.ArgumentParser, example: str) -> None:
    """Add `--log`, the CSV file that the example writes."""
    parser.add_argument("--log", default=f"{example}.csv", help=f"what python examples/{example}.py wrote")


def read(path: str, *measures: str, together: bool = False) -> Curves:
    """Return steps and values by run and by measure; a tag of the log is `run/measure`.

    Args:
        path: the log.
        measures: what every run must have.
        together: whether each step has all measures; those of a last one that was cut off are left out.

    Raises:
        UsageError: there is no such file, it is not such a log, or it lacks a measure.
    """
    advice = "run the example that writes it, or pass --log"
    try:
        scalars = read_csv(path)
    except FileNotFoundError:
        raise UsageError(f"no log {path!r}: {advice}") from None
    except OSError as error:
        raise UsageError(f"cannot read the log {path!r}: {error.strerror}") from error
    except (ValueError, csv.Error) as error:
        raise UsageError(f"{path!r} is not an example's log ({error}): {advice}") from error
    runs: Curves = {}
    for tag, curve in curves(scalars).items():
        name, _, measure = tag.rpartition("/")
        runs.setdefault(name, {})[measure] = curve
    if not runs:
        raise UsageError(f"nothing is in the log {path!r}: {advice}")
    for name, run in runs.items():
        for measure in measures:
            if not any(isfinite(x) and isfinite(y) for x, y in zip(*run.get(measure, ((), ())))):
                raise UsageError(f"the log {path!r} has no {measure!r} of {name!r} to draw: {advice}")
        if together:
            shortest = min(len(run[measure][1]) for measure in measures)
            runs[name] = {measure: (run[measure][0][:shortest], run[measure][1][:shortest]) for measure in measures}
    return runs
