"""Checks of arguments and values: what can only be a mistake is refused, by name.

Each returns its value as a plain number, word or flag. It raises a `TypeError` where something else than that is given,
and a `ValueError` for one that is out of range.
"""

import math
from collections.abc import Mapping
from os import PathLike
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from .._arguments import short


def number(name: str, value: object, advice: str = "") -> float:
    """Check that a value is one number, which may be NaN."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    try:
        if not isinstance(value, (bool, str, bytes)):  # float would read a number in a text
            return float(value)  # type: ignore[arg-type]  # it raises
    except (TypeError, ValueError, RuntimeError, OverflowError):  # a tensor of several elements is a RuntimeError
        pass
    found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else short(value)
    raise TypeError(f"{name} is {found}, not a number{advice}")


def not_nan(name: str, value: object) -> float:
    """Check that a value is a number, and not NaN, to which no comparison is true."""
    found = number(name, value)
    if math.isnan(found):
        raise ValueError(f"Invalid {name}: nan; it must be a number to compare with")
    return found


def not_negative(name: str, value: object, advice: str = "") -> float:
    """Check that a number is 0 or more."""
    found = number(name, value, advice)
    if not found >= 0:
        raise ValueError(f"Invalid {name}: {found}; it must be 0 or more")
    return found


def count(name: str, value: object, least: int = 1) -> int:
    """Check that a value is a whole number of at least `least`; 1e6 is one."""
    found = number(name, value)
    if not (found >= least and math.isfinite(found) and found == int(found)):
        raise ValueError(f"Invalid {name}: {short(value)}; it must be {least} or more, and a whole number")
    return int(found)


def limit(name: str, value: object, least: int = 1) -> float:
    """Check that a value is a whole number of at least `least`, or infinite: no limit."""
    return math.inf if number(name, value) == math.inf else count(name, value, least)


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
        raise TypeError(f"model is {_kind(value)}, not a torch.nn.Module{_instead(value)}")
    return value


def optimizer(value: object) -> Optimizer:
    """Check that a value is an optimizer; it is easily swapped with the model."""
    if isinstance(value, (type, nn.Module)) or not hasattr(value, "register_step_pre_hook"):
        swapped = "; the optimizer comes first, then the model" if isinstance(value, nn.Module) else _instead(value)
        raise TypeError(f"optimizer is {_kind(value)}, not a torch.optim.Optimizer{swapped}")
    return value  # type: ignore[return-value]  # what has its hooks is one


def path(value: object) -> str | PathLike[str]:
    """Check that a value is the name of a file; `open` would take an int for a file that is open already."""
    if not isinstance(value, (str, PathLike)):
        raise TypeError(f"path is {short(value)}, not the name of a file")
    return value


def state(state_dict: object, *names: str) -> Mapping[str, Any]:
    """Check that a state has what it must have."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict is {short(state_dict)}, not what state_dict() returns")
    if missing := [name for name in names if name not in state_dict]:
        found = ", ".join(map(repr, state_dict)) or "nothing"
        raise ValueError(f"Invalid state_dict: it has {found}, but no {', '.join(map(repr, missing))}")
    return state_dict


def _kind(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def _instead(value: object) -> str:
    return f"; pass an instance, {value.__name__}(…)" if isinstance(value, type) else ""
