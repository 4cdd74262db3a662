"""Checks of a schedule's arguments.

Each returns its value as a plain number or word, or raises an error that names the argument and says what it may be:
a `TypeError` where something else than a number is given for one, else a `ValueError`.
"""

import math
import operator
from collections.abc import Mapping, Sequence
from numbers import Real

from torch.optim import Optimizer

from .._arguments import found as shown
from .._arguments import is_number, short


def optimizer(value: object) -> Optimizer:
    """Check that a value is an optimizer; the error begins as torch's."""
    if isinstance(value, Optimizer):
        return value
    advice = "it is the first argument"
    if isinstance(value, type) and issubclass(value, Optimizer):
        advice = f"pass an instance, such as {value.__name__}(model.parameters())"
    raise TypeError(f"{type(value).__name__} is not an Optimizer: optimizer is {shown(value)}; {advice}")


def whole(value: object) -> int | None:
    """Return an int for what stands for one, such as a number of NumPy or a 0-d tensor; None for anything else."""
    try:
        return None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]  # it raises
    except TypeError:
        return None


def count(name: str, value: object, least: int = 1) -> int:
    """Check that a value is an int of at least `least`; 1e6 is one."""
    steps = int(value) if isinstance(value, float) and value.is_integer() else whole(value)
    if steps is None or steps < least:
        raise ValueError(f"Invalid {name}: {short(value)}; it must be an int, {least} or more")
    return steps


def number(name: str, value: object) -> float:
    """Check that a value is a number: arguments are easily swapped."""
    if isinstance(value, bool) or not is_number(value):
        raise TypeError(f"{name} is {shown(value)}, not a number")
    return float(value)  # type: ignore[arg-type]  # it is a number


def finite(name: str, value: object) -> float:
    """Check that a value is a finite number."""
    found = number(name, value)
    if not math.isfinite(found):
        raise ValueError(f"Invalid {name}: {found}; it must be finite")
    return found


def fraction(name: str, value: object) -> float:
    """Check that a number is in [0, 1]."""
    found = number(name, value)
    if not 0.0 <= found <= 1.0:
        raise ValueError(f"Invalid {name}: {found}; it must be in [0, 1]")
    return found


def floor(value: object) -> float:
    """Check the factor that a decay ends at: in [0, 1], where 1 is the peak."""
    found = number("floor", value)
    if found > 1.0:
        raise ValueError(f"Invalid floor: {found}; it is a factor of the base learning rate and above the peak, 1")
    return fraction("floor", found)


def positive(name: str, value: object) -> float:
    """Check that a number is above 0, and finite."""
    found = number(name, value)
    if not 0.0 < found < math.inf:
        raise ValueError(f"Invalid {name}: {found}; it must be above 0")
    return found


def not_negative(name: str, value: object) -> float:
    """Check that a number is 0 or more."""
    found = number(name, value)
    if not found >= 0.0:
        raise ValueError(f"Invalid {name}: {found}; it must be 0 or more")
    return found


def gamma(value: object) -> float:
    """Check the factor of an exponential decay, or of a drop: in (0, 1]."""
    return fraction("gamma", positive("gamma", value))


def step(value: float) -> float:
    """Check a step that a value is asked for; it may lie between two steps, and is left as it is."""
    if number("step", value) < 0:
        raise ValueError(f"Invalid step: {value}; steps count from 0")
    return value


def choice(name: str, value: object, choices: Sequence[str]) -> str:
    """Check that a word is one of a few."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"Invalid {name}: {short(value)}; it must be one of {', '.join(choices)}")
    return value


def steps_of(name: str, length: object, total_steps: object, kinds: str = "an int or a float") -> int:
    """Return the steps of a length that is given in steps (int) or as a fraction of the run (float)."""
    total = None if total_steps is None else count("total_steps", total_steps)
    steps = whole(length)
    if steps is None and isinstance(length, Real) and not isinstance(length, bool):
        share = float(length)
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"Invalid {name}: {share}; a float is a fraction of the run, in [0, 1]; steps are an int")
        if total is None:
            raise ValueError(f"Invalid {name}: {share} is a fraction of the run, which needs total_steps")
        return round(share * total)
    if steps is None or steps < 0:
        raise ValueError(
            f"Invalid {name}: {short(length)}; it must be {kinds}: steps are an int, 0 or more, and a float in [0, 1] "
            "is a fraction of the run"
        )
    if total is not None and steps > total:
        raise ValueError(f"Invalid {name}: {short(steps)} steps are longer than the run, total_steps={total}")
    return steps


def state(state_dict: object, names: Sequence[str]) -> Mapping[str, object]:
    """Check that a state is a scheduler's, by what must be in it."""
    found = list(state_dict) if isinstance(state_dict, Mapping) else None
    if found is None or not set(names) <= set(found):
        held = short(state_dict) if found is None else f"it has {', '.join(map(str, found)) or 'nothing'}"
        raise ValueError(f"Invalid state_dict: {held}; a scheduler's has {', '.join(names)}")
    count("last_epoch in state_dict", state_dict["last_epoch"], least=-1)  # type: ignore[index]  # it is a Mapping
    return state_dict  # type: ignore[return-value]
