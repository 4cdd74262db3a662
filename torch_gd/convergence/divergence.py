"""When a number has diverged: it is not finite, or has risen too far."""

import math


def not_finite(name: str, value: float) -> str:
    """Return a sentence that says that a value is infinite or NaN; an empty one if it is finite."""
    return "" if math.isfinite(value) else f"{name} is {value}"


def has_risen(value: float, reference: float, by: float = 0.0) -> bool:
    """Return whether a value lies above a reference by more than `by`; NaN does not."""
    return value > reference + by
