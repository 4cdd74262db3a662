"""Checks of the callbacks' arguments, at once and not hours later, when the trainer comes to use them."""

from .._arguments import count, found
from ..convergence import Criterion, checks


def check(every: object, validation_loss: object, stop: object, report: object, prefix: object = "") -> int:
    """Check what both callbacks take; return `every` as an int.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: `every` is below 1 or no whole number.
    """
    if stop is not None and not isinstance(stop, Criterion):
        raise TypeError(
            f"stop is {found(stop)}, not a criterion of torch_gd.convergence, such as EarlyStopping('val_loss')"
        )
    for name, text in (("validation_loss", validation_loss), ("prefix", prefix)):
        if not isinstance(text, str):
            raise TypeError(f"{name} is {found(text)}, not a name in the logs")
    checks.flag("report", report)
    return count("every", every)
