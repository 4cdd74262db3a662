"""The schedules that transformers knows by name, made of this package's pieces; `by_name.py` chooses among them.

transformers takes a part of a step, as in `0.1 * steps`, for every length. Where it has an error, ours begins as its.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from .._arguments import number, real
from . import checks, functions
from .decays import ConstantSchedule
from .greedy import GreedyLR
from .schedule import Schedule
from .warmup import Warmup


def steps(name: str, value: object, least: int = 0) -> float:
    """Return a number of steps as an int, or as a float where there is a part of a step, which transformers takes."""
    found = real(name, value, finite=True)
    if found < least:
        raise ValueError(f"Invalid {name}: {found:g}; it must be {least} or more")
    return int(found) if found.is_integer() else found


def _schedule(
    optimizer: Optimizer,
    decay: Callable[[float], float],
    warmup: float,
    total: float | None,
    last_epoch: int,
    **shape: Any,
) -> Schedule:
    """Return a schedule whose warm-up and run may end within a step; `shape` is the warm-up's."""
    if total is not None and warmup > total:
        raise ValueError(
            f"Invalid num_warmup_steps: {warmup} steps are longer than the run, num_training_steps={total}"
        )
    end = None if total is None else math.ceil(total)
    if isinstance(warmup, int):
        return Schedule(optimizer, decay, end, Warmup(warmup, **shape) if shape else warmup, last_epoch)
    return Schedule(optimizer, partial(_after, warmup, shape, decay), end, last_epoch=last_epoch)


def _after(warmup: float, shape: dict[str, Any], decay: Callable[[float], float], step: float) -> float:
    """Return the factor of a warm-up that ends within a step, then that of a decay."""
    return functions.warmup(step, warmup, **shape) if step < warmup else decay(step - warmup)


def _linear(optimizer: Optimizer, warmup: float, total: float, last_epoch: int = -1) -> Schedule:
    return _schedule(optimizer, partial(functions.linear, steps=total - warmup), warmup, total, last_epoch)


def _cosine(
    optimizer: Optimizer, warmup: float, total: float, num_cycles: float = 0.5, last_epoch: int = -1
) -> Schedule:
    return _cosine_with_min_lr(optimizer, warmup, total, num_cycles, last_epoch, min_lr_rate=0.0)


def _cosine_with_restarts(
    optimizer: Optimizer, warmup: float, total: float, num_cycles: int = 1, last_epoch: int = -1
) -> Schedule:
    decay = partial(
        functions.cosine_hard_restarts, steps=total - warmup, cycles=real("num_cycles", num_cycles, finite=True)
    )
    return _schedule(optimizer, decay, warmup, total, last_epoch)


def _polynomial(
    optimizer: Optimizer, warmup: float, total: float, lr_end: float = 1e-7, power: float = 1.0, last_epoch: int = -1
) -> Schedule:
    decay = partial(
        functions.polynomial,
        steps=total - warmup,
        power=real("power", power, finite=True),
        floor=_floor("lr_end", lr_end, optimizer),
    )
    return _schedule(optimizer, decay, warmup, total, last_epoch)


def _constant(optimizer: Optimizer) -> Schedule:
    return ConstantSchedule(optimizer)


def _constant_with_warmup(optimizer: Optimizer, warmup: float) -> Schedule:
    return _schedule(optimizer, functions.constant, warmup, None, -1)


def _inverse_sqrt(
    optimizer: Optimizer, warmup: float, timescale: float | None = None, last_epoch: int = -1
) -> Schedule:
    timescale = number("timescale", (warmup or 10_000) if timescale is None else timescale, above_zero=True)
    return _schedule(optimizer, partial(functions.inverse_sqrt, timescale=timescale), warmup, None, last_epoch)


def _cosine_with_min_lr(
    optimizer: Optimizer,
    warmup: float,
    total: float,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
) -> Schedule:
    floor = _min_lr_rate(optimizer, min_lr, min_lr_rate)
    decay = partial(
        functions.cosine, steps=total - warmup, floor=floor, cycles=real("num_cycles", num_cycles, finite=True)
    )
    return _schedule(optimizer, decay, warmup, total, last_epoch)


def _cosine_warmup_with_min_lr(
    optimizer: Optimizer,
    warmup: float,
    total: float,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
    warmup_lr_rate: float | None = None,
) -> Schedule:
    factor = partial(
        _one_step_ahead,
        warmup=warmup,
        steps=total - warmup,
        start=None if warmup_lr_rate is None else checks.fraction("warmup_lr_rate", warmup_lr_rate),
        floor=_min_lr_rate(optimizer, min_lr, min_lr_rate),
        cycles=real("num_cycles", num_cycles, finite=True),
    )
    return Schedule(optimizer, factor, math.ceil(total), last_epoch=last_epoch)


def _one_step_ahead(
    step: float, warmup: float, steps: float, start: float | None, floor: float, cycles: float
) -> float:
    """Return a warm-up that ends one step early, then a cosine that goes on from there; no step has a rate of 0."""
    if step < warmup:
        return (step + 1) / max(1, warmup) if start is None else start + (1 - start) * step / max(1, warmup - 1)
    progress = (step - warmup + 1) / max(1, steps)
    return max(0.0, 0.5 * (1 + math.cos(math.pi * cycles * 2 * progress)) * (1 - floor) + floor)


def _warmup_stable_decay(
    optimizer: Optimizer,
    warmup: float,
    total: float | None,
    num_decay_steps: float,
    num_stable_steps: float | None = None,
    warmup_type: str = "linear",
    decay_type: str = "cosine",
    min_lr_ratio: float = 0.0,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
) -> Schedule:
    for part, kind in (("warmup", warmup_type), ("decay", decay_type)):
        if kind not in ("linear", "cosine", "1-sqrt"):
            raise ValueError(f"Unknown {part} type: {kind}, expected 'linear', 'cosine' or '1-sqrt'")
    num_decay_steps = steps("num_decay_steps", num_decay_steps)
    min_lr_ratio = checks.fraction("min_lr_ratio", min_lr_ratio)
    if num_stable_steps is not None:
        num_stable_steps = steps("num_stable_steps", num_stable_steps)
    elif total is None:
        raise ValueError("Either num_training_steps or num_stable_steps must be specified.")
    elif warmup + num_decay_steps > total:
        raise ValueError(
            f"Invalid num_decay_steps: {num_decay_steps}; with num_warmup_steps={warmup} it is longer than the run, "
            f"num_training_steps={total}"
        )
    else:
        num_stable_steps = total - warmup - num_decay_steps
    decay = partial(
        functions.stable_decay,
        stable_steps=num_stable_steps,
        decay_steps=num_decay_steps,
        tail=decay_type,
        floor=min_lr_ratio,
        cycles=real("num_cycles", num_cycles, finite=True),
    )
    length = warmup + num_stable_steps + num_decay_steps
    return _schedule(optimizer, decay, warmup, length, last_epoch, kind=warmup_type, start=min_lr_ratio)


def _min_lr_rate(optimizer: Optimizer, min_lr: float | None, min_lr_rate: float | None) -> float:
    """Return the floor that is given either as a learning rate or as a factor."""
    if min_lr is not None and min_lr_rate is not None:
        raise ValueError(f"Only one of min_lr or min_lr_rate should be set, not both: {min_lr} and {min_lr_rate}")
    if min_lr is not None:
        return _floor("min_lr", min_lr, optimizer)
    if min_lr_rate is not None:
        return checks.fraction("min_lr_rate", min_lr_rate)
    raise ValueError("One of min_lr or min_lr_rate should be set through the `lr_scheduler_kwargs`")


def _floor(name: str, lr: float, optimizer: Optimizer) -> float:
    """Return a learning rate as a factor of the optimizer's default learning rate."""
    peak, lr = float(optimizer.defaults["lr"]), number(name, lr, finite=False)
    if lr > peak:
        raise ValueError(f"{name} ({lr}) must be smaller than initial lr ({peak})")
    return lr / peak if peak else 0.0


_WARMUP, _BOTH = ("num_warmup_steps",), ("num_warmup_steps", "num_training_steps")
BUILDERS: dict[str, tuple[Callable[..., LRScheduler], tuple[str, ...]]] = {
    "linear": (_linear, _BOTH),
    "cosine": (_cosine, _BOTH),
    "cosine_with_restarts": (_cosine_with_restarts, _BOTH),
    "polynomial": (_polynomial, _BOTH),
    "constant": (_constant, ()),
    "constant_with_warmup": (_constant_with_warmup, _WARMUP),
    "inverse_sqrt": (_inverse_sqrt, _WARMUP),
    "reduce_lr_on_plateau": (ReduceLROnPlateau, ()),
    "cosine_with_min_lr": (_cosine_with_min_lr, _BOTH),
    "cosine_warmup_with_min_lr": (_cosine_warmup_with_min_lr, _BOTH),
    "warmup_stable_decay": (_warmup_stable_decay, _BOTH),
    "greedy": (GreedyLR, ()),
}
