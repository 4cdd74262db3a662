"""Argument types that the examples share. A bad value is a one-line error before anything is trained."""

import argparse
import math
import os
from pathlib import Path

import torch
from matplotlib.backend_bases import FigureCanvasBase


def positive(text: str) -> int:
    """Return a whole number from 1 up."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {value}")
    return value


def count(text: str) -> int:
    """Return a whole number from 0 up."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, not {value}")
    return value


def not_negative(text: str) -> float:
    """Return a finite number from 0 up."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a finite number from 0 up, not {text}")
    return value


def usable_device(text: str) -> str:
    """Return the name of a device that torch can use here."""
    try:
        torch.empty(1, device=text)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise argparse.ArgumentTypeError(f"cannot use {text!r}: {error}".splitlines()[0]) from error
    return text


def output_file(text: str) -> str:
    """Return the path of a file that can be written."""
    path = Path(text)
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"cannot write to {text!r}")
    return text


def output_picture(text: str) -> str:
    """Return the path of a picture that can be written; its ending says the format."""
    known = FigureCanvasBase.get_supported_filetypes()
    if Path(text).suffix[1:].lower() not in ("", *known):
        raise argparse.ArgumentTypeError(f"{text!r} must end in one of {', '.join(sorted(known))}")
    return output_file(text)
