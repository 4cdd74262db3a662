"""Argument types of the command lines, and their error: a bad value is one line, before anything is trained."""

import argparse
from pathlib import Path


class UsageError(Exception):
    """What is wrong with a command line, in one line for the user."""


def positive(text: str) -> int:
    """Return a whole number from 1 up."""
    return _at_least(1, text)


def two_or_more(text: str) -> int:
    """Return a whole number from 2 up."""
    return _at_least(2, text)


def count(text: str) -> int:
    """Return a whole number from 0 up."""
    return _at_least(0, text)


def seed(text: str) -> int:
    """Return a number that torch takes as a seed."""
    value = int(text)
    if not -(2**63) <= value < 2**64:
        raise argparse.ArgumentTypeError(f"must be from -2**63 to 2**64 - 1, not {text}")
    return value


def output_file(text: str) -> str:
    """Return the path of a file that can be written."""
    path = Path(text)
    try:
        is_new = not path.exists()
        with open(path, "a"):
            pass
        if is_new:
            path.unlink()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot write to {text!r}: {error.strerror}") from error
    return text


def output_picture(text: str) -> str:
    """Return the path of a picture that can be written; its ending says the format, and is .png if it has none."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ModuleNotFoundError as error:
        raise argparse.ArgumentTypeError("pictures need matplotlib: pip install matplotlib") from error
    known = FigureCanvasBase.get_supported_filetypes()
    suffix = Path(text).suffix
    if suffix and suffix[1:].lower() not in known:
        raise argparse.ArgumentTypeError(f"{text!r} must end in one of {', '.join(sorted(known))}")
    return output_file(text if suffix or not Path(text).name else f"{text}.png")


def _at_least(least: int, text: str) -> int:
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"must be {least} or more, not {value}")
    if value >= 2**31:
        raise argparse.ArgumentTypeError(f"must be below 2**31, not {value}")
    return value
