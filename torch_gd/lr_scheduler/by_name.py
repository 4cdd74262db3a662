"""`get_scheduler`: schedules by the names, arguments and values of Hugging Face transformers."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, _update_param_group_val

from .._arguments import as_optimizer, short
from .named import BUILDERS, steps
from .shares import forget


def get_scheduler(
    name: str,
    optimizer: Optimizer,
    num_warmup_steps: float | None = None,
    num_training_steps: float | None = None,
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
        num_warmup_steps: steps of linear warm-up from 0; a part of a step counts too, as in `0.1 * steps`.
            Default: None, for schedules that need none.
        num_training_steps: length of the run in steps, warm-up included. Default: None, for schedules without an end.
        scheduler_specific_kwargs: further arguments of the schedule, by transformers' names (num_cycles, power, lr_end,
            min_lr, min_lr_rate, timescale, num_decay_steps, …). Default: None.

    Returns:
        A `Schedule`. For "reduce_lr_on_plateau" it is torch's `ReduceLROnPlateau` and for "greedy" a `GreedyLR`; the
        `step` of these two takes a metric.

    Raises:
        ValueError: the name is unknown, a length that the schedule needs is missing, or an argument is out of range.
        TypeError: the schedule does not take one of the keywords, or an argument is of a type that cannot be meant.

    Example:
        >>> import torch, torch_gd
        >>> optimizer = torch_gd.SGD([torch.ones(2, requires_grad=True)], lr=0.1)
        >>> scheduler = torch_gd.get_scheduler("cosine", optimizer, num_warmup_steps=100, num_training_steps=1000)
        >>> [round(scheduler.factor(step), 3) for step in (0, 50, 100, 550, 1000)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    # transformers' own texts come first, where it has one.
    if isinstance(name, Optimizer):
        raise TypeError(f"name is {short(name)}, an optimizer; the name of the schedule comes before the optimizer")
    as_optimizer(optimizer, "it comes after the name")
    name = str(getattr(name, "value", name))
    if name not in BUILDERS:
        raise ValueError(f"{name} is not a valid SchedulerType, please select one of {list(BUILDERS)}")
    build, needs = BUILDERS[name]
    given = {"num_warmup_steps": num_warmup_steps, "num_training_steps": num_training_steps}
    lengths = []
    for need in needs:
        if given[need] is None and not (name == "warmup_stable_decay" and need == "num_training_steps"):
            raise ValueError(f"{name} requires `{need}`, please provide that argument.")
        least = 0 if need == "num_warmup_steps" else 1
        lengths.append(None if given[need] is None else steps(need, given[need], least))
    options = {} if name == "constant" or scheduler_specific_kwargs is None else scheduler_specific_kwargs
    if not isinstance(options, Mapping):
        raise TypeError(f"scheduler_specific_kwargs is {short(options)}, not a dict of the schedule's arguments")
    try:
        inspect.signature(build).bind(optimizer, *lengths, **options)
    except TypeError as error:
        taken = list(inspect.signature(build).parameters)[1 + len(lengths) :]
        raise TypeError(f"Invalid scheduler_specific_kwargs: {error}; {name!r} takes {', '.join(taken)}") from None
    if options.get("last_epoch", -1) == -1:
        for group in optimizer.param_groups:
            _update_param_group_val(group, "lr", group.get("initial_lr", group["lr"]))
        forget(optimizer)
    return build(optimizer, *lengths, **options)
