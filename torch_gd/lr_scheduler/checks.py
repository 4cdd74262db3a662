"""Checks of a schedule's arguments.

Each returns its value as a plain number or word, or raises an error that names the argument and says what it may be:
a `TypeError` where something else than a number is given for one, else a `ValueError`.
"""

import operator
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from .._arguments import as_state, count, number, real, short


def whole(value: object) -> int | None:
    """Return an int for what stands for one, such as a number of NumPy or a 0-d tensor; None for anything else."""
    try:
        return None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]  # it raises
    except TypeError:
        return None


def fraction(name: str, value: object) -> float:
    """Check that a number is in [0, 1]."""
    found = real(name, value)
    if not 0.0 <= found <= 1.0:
        raise ValueError(f"Invalid {name}: {found}; it must be in [0, 1]")
    return found


def floor(value: object) -> float:
    """Check the factor that a decay ends at: in [0, 1], where 1 is the peak."""
    found = real("floor", value)
    if found > 1.0:
        raise ValueError(f"Invalid floor: {found}; it is a factor of the base learning rate and above the peak, 1")
    return fraction("floor", found)


def gamma(value: object) -> float:
    """Check the factor of an exponential decay, or of a drop: in (0, 1]."""
    return fraction("gamma", number("gamma", value, above_zero=True))


def step(value: float) -> float:
    """Check a step that a value is asked for; it may lie between two steps, and is left as it is."""
    if real("step", value) < 0:
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


def state(state_dict: object, *names: str) -> Mapping[str, Any]:
    """Check that a state is a scheduler's, by what must be in it."""
    saved = as_state(state_dict, *names)
    count("last_epoch in state_dict", saved["last_epoch"], least=-1)
    return saved
