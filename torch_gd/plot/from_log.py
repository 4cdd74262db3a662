"""Read an example's log, for the pictures that are drawn from one."""

import argparse

from ..convergence.logs import curves, read_csv

Curves = dict[str, dict[str, tuple[list[float], list[float]]]]


def add_log_argument(parser: argparse.ArgumentParser, example: str) -> None:
    """Add `--log`, the CSV file that the example writes."""
    parser.add_argument("--log", default=f"{example}.csv", help=f"what python examples/{example}.py wrote")


def read(path: str) -> Curves:
    """Return steps and values by run and by measure; a tag of the log is `run/measure`.

    Raises:
        FileNotFoundError: there is no such file.
    """
    try:
        scalars = read_csv(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no log {path!r}: run the example that writes it, or pass --log") from error
    runs: Curves = {}
    for tag, curve in curves(scalars).items():
        run, _, measure = tag.rpartition("/")
        runs.setdefault(run, {})[measure] = curve
    return runs
