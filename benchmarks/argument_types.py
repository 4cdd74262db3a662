"""Argument types of the command lines. A bad value is a one-line error before anything is measured."""

import argparse
import tempfile
from pathlib import Path

import torch


def positive(text: str) -> int:
    """Return a whole number from 1 up."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {value}")
    if value >= 2**31:
        raise argparse.ArgumentTypeError(f"must be below 2**31, not {value}")
    return value


def duration(text: str) -> float:
    """Return a finite number of seconds above 0."""
    value = float(text)
    if not 0 < value <= 1e9:  # nothing is meant by more, and products of it overflow
        raise argparse.ArgumentTypeError(f"must be a finite number above 0, 1e9 at most, not {text}")
    return value


def torch_device(text: str) -> torch.device:
    """Return the CPU or a GPU, which need not be present."""
    try:
        found = torch.device(text)
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"must be cpu, cuda or cuda:N, not {text!r}")
    return found


def folder(text: str) -> Path:
    """Return a folder that files can be written to; create it where it is missing."""
    if not text:  # as from a variable that is not set
        raise argparse.ArgumentTypeError("cannot write to '': the current folder is .")
    path = Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot write to {text!r}: {error.strerror}") from error
    return path
