"""What other libraries call the arguments of a range test, and what they are called here."""

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from .._arguments import check_names

P = ParamSpec("P")
R = TypeVar("R")

RIGHT_NAMES = {
    **dict.fromkeys(("min_lr", "init_value", "lr_min"), ("start_lr", "pass start_lr=…, the first rate")),
    **dict.fromkeys(("max_lr", "final_value", "lr_max"), ("end_lr", "pass end_lr=…, the last rate")),
    **dict.fromkeys(
        ("num_iter", "num_it", "num_iters", "num_training", "num_steps", "iterations"),
        ("steps", "pass steps=…, the number of mini-batches"),
    ),
    **dict.fromkeys(("smooth_f", "beta"), ("smoothing", "pass smoothing=…, the weight of the past, in [0, 1)")),
    **dict.fromkeys(
        ("diverge_th", "early_stop_threshold", "stop_div"),
        ("divergence", "pass divergence=…, a multiple of the lowest loss, or inf to go on to the last rate"),
    ),
    **dict.fromkeys(("criterion", "loss_func", "loss"), ("loss_fn", "pass loss_fn=…, as the third argument")),
    **dict.fromkeys(
        ("train_loader", "dataloader", "data_loader", "train_dataloaders", "dls"),
        ("loader", "pass loader=…, as the fourth argument"),
    ),
    **dict.fromkeys(("show_plot", "show"), ("plot", "pass plot=…, the file to draw to")),
}
"""By the wrong name: the right one, and advice that mentions it."""


def answers_wrong_names(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function that answers a wrong name of an argument with the right one."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        check_names(function.__name__, signature, kwargs, RIGHT_NAMES)
        return function(*args, **kwargs)

    return checked
