"""Argument types that the examples share. A bad value is a one-line error before anything is trained."""

import argparse

import torch

from torch_gd.plot.arguments import count, output_file, output_picture, positive, seed

__all__ = ["count", "not_negative", "output_file", "output_picture", "positive", "seed", "usable_device"]


def not_negative(text: str) -> float:
    """Return a finite number from 0 up."""
    value = float(text)
    if not 0 <= value <= 1e9:  # nothing is meant by more, and products of it overflow
        raise argparse.ArgumentTypeError(f"must be a finite number from 0 up, 1e9 at most, not {text}")
    return value


def usable_device(text: str) -> str:
    """Return the name of a device that torch can use here."""
    try:
        torch.zeros(1, device=text).item()  # which a meta device has not
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise argparse.ArgumentTypeError(f"cannot use {text!r}: {error}".splitlines()[0]) from error
    return text
