"""`get_scheduler`: schedules by the names, arguments and values of Hugging Face transformers."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau, _update_param_group_val

from .._arguments import short
from . import checks, functions
from .decays import ConstantSchedule, InverseSqrtSchedule, LinearSchedule
from .greedy import GreedyLR
from .schedule import Schedule
from .shares import forget
from .warmup import Warmup


def get_scheduler(
    name: str,
    optimizer: Optimizer,
    num_warmup_steps: int | None = None,
    num_training_steps: int | None = None,
    scheduler_specific_kwargs: dict[str, Any] | None = None,
) -> LRScheduler:
    """Return a schedule by its name in transformers, with transformers' values at every step of the run.

    Past `num_training_steps` the last value is held, where transformers' cosines would climb again. As in transformers,
    the optimizer's learning rates start anew, from the groups' `initial_lr` if an earlier schedule left one.

    Args:
        name: a name in, or member of, `transformers.SchedulerType`: "linear", "cosine", "cosine_with_restarts",
            "polynomial", "constant", "constant_with_warmup", "inverse_sqrt", "reduce_lr_on_plateau",
            "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay" or "greedy".
        optimizer: any `torch.optim.Optimizer`.
        num_warmup_steps: steps of linear warm-up from 0. Default: None, for schedules that need none.
        num_training_steps: length of the run in steps, warm-up included. Default: None, for schedules without an end.
        scheduler_specific_kwargs: further arguments of the schedule, by transformers' names (num_cycles, power, lr_end,
            min_lr, min_lr_rate, timescale, num_decay_steps, …). Default: None.

    Returns:
        A `Schedule`. For "reduce_lr_on_plateau" it is torch's `ReduceLROnPlateau` and for "greedy" a `GreedyLR`; the
        `step` of these two takes a metric.

    Raises:
        ValueError: the name is unknown, a length that the schedule needs is missing, or an argument is out of range.
        TypeError: the schedule does not take one of the keywords.

    Example:
        >>> import torch, torch_gd
        >>> optimizer = torch_gd.SGD([torch.ones(2, requires_grad=True)], lr=0.1)
        >>> scheduler = torch_gd.get_scheduler("cosine", optimizer, num_warmup_steps=100, num_training_steps=1000)
        >>> [round(scheduler.factor(step), 3) for step in (0, 50, 100, 550, 1000)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer is {short(optimizer)}, not a torch.optim.Optimizer; the name comes before it")
    name = str(getattr(name, "value", name))
    if name not in _BUILDERS:
        raise ValueError(f"Invalid name: {name!r}; it must be one of {', '.join(_BUILDERS)}")
    build, needs = _BUILDERS[name]
    lengths = {"num_warmup_steps": num_warmup_steps, "num_training_steps": num_training_steps}
    for need in needs:
        if lengths[need] is None and not (name == "warmup_stable_decay" and need == "num_training_steps"):
            raise ValueError(f"Invalid {need}: None; {name!r} needs it")
        if lengths[need] is not None:
            checks.count(need, lengths[need], least=0 if need == "num_warmup_steps" else 1)
    options = {} if name == "constant" else scheduler_specific_kwargs or {}
    if options.get("last_epoch", -1) == -1:
        for group in optimizer.param_groups:
            _update_param_group_val(group, "lr", group.get("initial_lr", group["lr"]))
        forget(optimizer)
    return build(optimizer, *(lengths[need] for need in needs), **options)


def _linear(optimizer: Optimizer, warmup: int, total: int, last_epoch: int = -1) -> Schedule:
    return LinearSchedule(optimizer, total, warmup=warmup, last_epoch=last_epoch)


def _cosine(optimizer: Optimizer, warmup: int, total: int, num_cycles: float = 0.5, last_epoch: int = -1) -> Schedule:
    return _cosine_with_min_lr(optimizer, warmup, total, num_cycles, last_epoch, min_lr_rate=0.0)


def _cosine_with_restarts(
    optimizer: Optimizer, warmup: int, total: int, num_cycles: int = 1, last_epoch: int = -1
) -> Schedule:
    decay = partial(functions.cosine_hard_restarts, steps=total - warmup, cycles=num_cycles)
    return Schedule(optimizer, decay, total, warmup, last_epoch)


def _polynomial(
    optimizer: Optimizer, warmup: int, total: int, lr_end: float = 1e-7, power: float = 1.0, last_epoch: int = -1
) -> Schedule:
    decay = partial(functions.polynomial, steps=total - warmup, power=power, floor=_floor("lr_end", lr_end, optimizer))
    return Schedule(optimizer, decay, total, warmup, last_epoch)


def _constant(optimizer: Optimizer) -> Schedule:
    return ConstantSchedule(optimizer)


def _constant_with_warmup(optimizer: Optimizer, warmup: int) -> Schedule:
    return ConstantSchedule(optimizer, warmup=warmup)


def _inverse_sqrt(optimizer: Optimizer, warmup: int, timescale: int | None = None, last_epoch: int = -1) -> Schedule:
    return InverseSqrtSchedule(optimizer, timescale, warmup=warmup, last_epoch=last_epoch)


def _cosine_with_min_lr(
    optimizer: Optimizer,
    warmup: int,
    total: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
) -> Schedule:
    floor = _min_lr_rate(optimizer, min_lr, min_lr_rate)
    decay = partial(functions.cosine, steps=total - warmup, floor=floor, cycles=num_cycles)
    return Schedule(optimizer, decay, total, warmup, last_epoch)


def _cosine_warmup_with_min_lr(
    optimizer: Optimizer,
    warmup: int,
    total: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
    warmup_lr_rate: float | None = None,
) -> Schedule:
    start = 1 / max(1, warmup) if warmup_lr_rate is None else warmup_lr_rate
    factor = partial(
        _one_step_ahead,
        warmup=warmup,
        steps=total - warmup,
        start=checks.fraction("warmup_lr_rate", start),
        floor=_min_lr_rate(optimizer, min_lr, min_lr_rate),
        cycles=num_cycles,
    )
    return Schedule(optimizer, factor, total, last_epoch=last_epoch)


def _one_step_ahead(step: int, warmup: int, steps: int, start: float, floor: float, cycles: float) -> float:
    """Return a warm-up that ends one step early, then a cosine that goes on from there; no step has a rate of 0."""
    if step < warmup:
        return functions.warmup(step, max(1, warmup - 1), start=start)
    progress = (step - warmup + 1) / max(1, steps)
    return max(0.0, 0.5 * (1 + math.cos(math.pi * cycles * 2 * progress)) * (1 - floor) + floor)


def _warmup_stable_decay(
    optimizer: Optimizer,
    warmup: int,
    total: int | None,
    num_decay_steps: int,
    num_stable_steps: int | None = None,
    warmup_type: str = "linear",
    decay_type: str = "cosine",
    min_lr_ratio: float = 0.0,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
) -> Schedule:
    checks.count("num_decay_steps", num_decay_steps, least=0)
    checks.choice("warmup_type", warmup_type, ("linear", "cosine", "1-sqrt"))
    checks.choice("decay_type", decay_type, ("linear", "cosine", "1-sqrt"))
    if num_stable_steps is not None:
        checks.count("num_stable_steps", num_stable_steps, least=0)
    elif total is None:
        raise ValueError("Invalid num_training_steps: None; without num_stable_steps, 'warmup_stable_decay' needs it")
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
        floor=checks.floor(min_lr_ratio),
        cycles=num_cycles,
    )
    length = warmup + num_stable_steps + num_decay_steps
    return Schedule(optimizer, decay, length, Warmup(warmup, warmup_type, min_lr_ratio), last_epoch)


def _min_lr_rate(optimizer: Optimizer, min_lr: float | None, min_lr_rate: float | None) -> float:
    """Return the floor that is given either as a learning rate or as a factor."""
    if (min_lr is None) == (min_lr_rate is None):
        raise ValueError(f"Invalid min_lr and min_lr_rate: {min_lr} and {min_lr_rate}; give one of the two")
    return checks.floor(min_lr_rate) if min_lr_rate is not None else _floor("min_lr", min_lr or 0.0, optimizer)


def _floor(name: str, lr: float, optimizer: Optimizer) -> float:
    """Return a learning rate as a factor of the optimizer's default learning rate."""
    peak = float(optimizer.defaults["lr"])
    if not 0 <= lr <= peak:
        raise ValueError(f"Invalid {name}: {lr}; it must be from 0 to the optimizer's learning rate, {peak}")
    return lr / peak if peak else 0.0


_WARMUP, _BOTH = ("num_warmup_steps",), ("num_warmup_steps", "num_training_steps")
_BUILDERS: dict[str, tuple[Callable[..., LRScheduler], tuple[str, ...]]] = {
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
