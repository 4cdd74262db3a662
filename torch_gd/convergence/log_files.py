"""Read the file of a log, and mend what a killed process left of it."""

import csv
import io
import os
from os import PathLike
from typing import NamedTuple

FIELDS = ("step", "tag", "value", "wall_time")
HEADER = ",".join(FIELDS)


class Scalar(NamedTuple):
    """A number that was written to a log."""

    step: int | None
    tag: str
    value: float
    wall_time: float  # seconds since 1970


def read(path: str | PathLike[str]) -> tuple[str, list[Scalar], bool]:
    """Return a log's first line, its numbers, and whether a last line that was left unfinished is not among them.

    Raises:
        ValueError: it is a log of which a line cannot be read.
    """
    with open(path, "rb") as file:
        data = file.read()
    end = data.rfind(b"\n") + 1  # what comes after it was left unfinished, perhaps within a character
    lines = csv.reader(io.StringIO(data[:end].decode("utf-8", "replace"), newline=""))
    header = ",".join(next(lines, [data.decode("utf-8", "replace")]))
    scalars: list[Scalar] = []
    if header != HEADER:
        return header, scalars, end == 0
    for line in lines:
        number = lines.line_num
        try:
            step, tag, value, wall_time = line
            scalars.append(Scalar(int(float(step)) if step else None, tag, float(value), float(wall_time)))
        except (ValueError, OverflowError):
            if next(lines, None) is None and len(line) < len(FIELDS):  # unfinished within a tag of several lines
                return header, scalars, True
            found = ",".join(line)
            raise ValueError(f"Invalid path: line {number} of {path} is {found!r}, not {HEADER}") from None
    return header, scalars, end < len(data)


def take_out(path: str | PathLike[str], first: int | None) -> None:
    """Take the last line out of a log if it was left unfinished, and the lines of a step and of later ones.

    Raises:
        ValueError: the file is not such a log; it is left as it is.
    """
    if not os.path.exists(path) or os.path.getsize(path) == 0:
        return
    header, scalars, unfinished = read(path)
    if header != HEADER and not (unfinished and HEADER.startswith(header)):
        raise ValueError(f"Invalid path: {path} begins with {header!r}, not with {HEADER!r}")
    kept = [scalar for scalar in scalars if first is None or scalar.step is None or scalar.step < first]
    if not unfinished and len(kept) == len(scalars):
        return
    path = os.path.realpath(path)
    with open(f"{path}.tmp", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(FIELDS)
        rows.writerows(kept)
    os.replace(f"{path}.tmp", path)  # at once, so that no kill loses the log
