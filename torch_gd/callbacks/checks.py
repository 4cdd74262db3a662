"""What both callbacks do alike: check arguments, at once and not hours later, and have all ranks decide as one."""

import torch.distributed as dist

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


def decide_as_one(stop: Criterion | None) -> None:
    """Have every rank of a distributed run stop when one would, unless the user has said who decides."""
    if stop is None or stop.groups or not (dist.is_available() and dist.is_initialized()):
        return
    if dist.get_world_size() > 1:
        stop.groups = (dist.group.WORLD,)
