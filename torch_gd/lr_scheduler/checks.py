"""Checks of a schedule's arguments.

Each returns its value, or raises an error that names the argument and says what it may be: a `TypeError` where a float
is wanted and something else is given, else a `ValueError`.
"""

from collections.abc import Sequence

from .._arguments import short


def count(name: str, value: object, least: int = 1) -> int:
    """Check that a value is an int of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"Invalid {name}: {short(value)}; it must be an int, {least} or more")
    return value


def number(name: str, value: float) -> float:
    """Check that a value is a number: arguments are easily swapped."""
    if not hasattr(value, "__float__"):
        raise TypeError(f"{name} is {short(value)}, not a number")
    return value


def fraction(name: str, value: float) -> float:
    """Check that a number is in [0, 1]."""
    if not 0.0 <= number(name, value) <= 1.0:
        raise ValueError(f"Invalid {name}: {value}; it must be in [0, 1]")
    return value


def floor(value: float) -> float:
    """Check the factor that a decay ends at: in [0, 1], where 1 is the peak."""
    if number("floor", value) > 1.0:
        raise ValueError(f"Invalid floor: {value}; it is a factor of the base learning rate and above the peak, 1")
    return fraction("floor", value)


def positive(name: str, value: float) -> float:
    """Check that a number is above 0, and finite."""
    if not 0.0 < number(name, value) < float("inf"):
        raise ValueError(f"Invalid {name}: {value}; it must be above 0")
    return value


def gamma(value: float) -> float:
    """Check the factor of an exponential decay, or of a drop: in (0, 1]."""
    return fraction("gamma", positive("gamma", value))


def choice(name: str, value: str, choices: Sequence[str]) -> str:
    """Check that a word is one of a few."""
    if value not in choices:
        raise ValueError(f"Invalid {name}: {value!r}; it must be one of {', '.join(choices)}")
    return value


def steps_of(name: str, length: object, total_steps: int | None, kinds: str = "an int or a float") -> int:
    """Return the steps of a length that is given in steps (int) or as a fraction of the run (float)."""
    if total_steps is not None:
        count("total_steps", total_steps)
    if isinstance(length, float):
        if not 0.0 <= length <= 1.0:
            raise ValueError(f"Invalid {name}: {length}; a float is a fraction of the run, in [0, 1]; steps are an int")
        if total_steps is None:
            raise ValueError(f"Invalid {name}: {length} is a fraction of the run, which needs total_steps")
        return round(length * total_steps)
    if not isinstance(length, int) or isinstance(length, bool) or length < 0:
        raise ValueError(
            f"Invalid {name}: {short(length)}; it must be {kinds}: steps are an int, 0 or more, and a float in [0, 1] "
            "is a fraction of the run"
        )
    steps = length
    if total_steps is not None and steps > total_steps:
        raise ValueError(f"Invalid {name}: {steps} steps are longer than the run, total_steps={total_steps}")
    return steps
