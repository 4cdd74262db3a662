"""Checks of arguments and values: what can only be a mistake is refused, by name.

Each returns the checked value, numbers and flags as plain Python ones. It raises a `TypeError` for a value of the wrong
type and a `ValueError` for one out of range; `sign` raises a `ValueError` for both.
"""

import math
from os import PathLike

from torch import nn

from .._arguments import count, real, short


def not_nan(name: str, value: object) -> float:
    """Check that a value is a number, and not NaN, to which no comparison is true."""
    as_float = real(name, value)
    if math.isnan(as_float):
        raise ValueError(f"Invalid {name}: nan; it must be a number to compare with")
    return as_float


def limit(name: str, value: object, least: int = 1) -> float:
    """Check that a value is a whole number of at least `least`, or infinite: no limit."""
    return math.inf if real(name, value) == math.inf else count(name, value, least)


def flag(name: str, value: object) -> bool:
    """Check that a value is True or False; a text is neither."""
    plain = value.item() if hasattr(value, "item") else value  # NumPy has a bool of its own
    if isinstance(plain, int) and plain in (0, 1):
        return bool(plain)
    raise TypeError(f"{name} is {short(value)}, neither True nor False")


def monitored(monitor: object) -> str:
    """Check that a value to look at is given by its name."""
    if not isinstance(monitor, str):
        raise TypeError(f"monitor is {short(monitor)}, not the name of a value, such as 'val_loss'")
    return monitor


def sign(mode: object) -> int:
    """Return 1 if lower values are better, and -1 if higher ones are."""
    if not isinstance(mode, str) or mode not in ("min", "max"):
        raise ValueError(f"Invalid mode: {short(mode)}; it must be 'min' or 'max'")
    return 1 if mode == "min" else -1


def model(value: object) -> nn.Module:
    """Check that a value is a model."""
    if not isinstance(value, nn.Module):
        if isinstance(value, type):
            raise TypeError(f"model is the class {value.__name__}; pass an instance, {value.__name__}(…)")
        raise TypeError(f"model is {type(value).__name__}, not a torch.nn.Module")
    return value


def path(value: object) -> str | PathLike[str]:
    """Check that a value is the name of a file; `open` would take an int for a file that is open already."""
    if not isinstance(value, (str, PathLike)):
        raise TypeError(f"path is {short(value)}, not the name of a file")
    return value
