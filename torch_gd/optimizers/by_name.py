"""Optimizers by name, for scripts whose optimizer is an option."""

import inspect
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn

from .._arguments import found
from .adadelta import Adadelta
from .adagrad import Adagrad
from .adam import Adam
from .adamax import Adamax
from .adamw import AdamW
from .base import FusedOptimizer
from .lamb import LAMB
from .lars import LARS
from .lion import Lion
from .nadam import NAdam
from .nag import NAG
from .param_groups import param_groups_weight_decay
from .radam import RAdam
from .rmsprop import RMSprop
from .sgd import SGD
from .sgdw import SGDW

# What timm calls "sgd" has Nesterov momentum of 0.9 unless told otherwise; here a name stands for torch's defaults.
OPTIMIZERS: dict[str, tuple[type[FusedOptimizer], dict[str, Any]]] = {
    "adadelta": (Adadelta, {}),
    "adagrad": (Adagrad, {}),
    "adam": (Adam, {}),
    "adamax": (Adamax, {}),
    "adamw": (AdamW, {}),
    "lamb": (LAMB, {}),
    "lars": (LARS, {}),
    "lion": (Lion, {}),
    "momentum": (SGD, {"momentum": 0.9}),
    "nadam": (NAdam, {}),
    "nadamw": (NAdam, {"decoupled_weight_decay": True}),
    "nag": (NAG, {}),
    "nesterov": (NAG, {}),
    "radam": (RAdam, {}),
    "radamw": (RAdam, {"decoupled_weight_decay": True}),
    "rmsprop": (RMSprop, {}),
    "sgd": (SGD, {}),
    "sgdw": (SGDW, {}),
}


def list_optimizers() -> list[str]:
    """Return the names that `create_optimizer` takes.

    Example:
        >>> import torch_gd
        >>> "adamw" in torch_gd.list_optimizers()
        True
    """
    return sorted(OPTIMIZERS)


def create_optimizer(
    name: str,
    model_or_params: nn.Module | Iterable[Any],
    lr: float | Tensor | None = None,
    weight_decay: float | None = None,
    **options: Any,
) -> FusedOptimizer:
    """Return an optimizer by its name, with the defaults of its class.

    Of a model, biases and the gains of normalisation layers do not decay, as by `param_groups_weight_decay`.

    Args:
        name: one of `list_optimizers()`, in upper or lower case. "sgd" is plain SGD, "momentum" has a momentum of 0.9.
        model_or_params: a module, or what the class takes: parameters, named parameters or groups.
        lr: learning rate. Default: None, that of the class.
        weight_decay: weight decay. Default: None, that of the class.
        options: further arguments of the class.

    Returns:
        The optimizer.

    Raises:
        ValueError: the name is unknown, or an argument is out of range.
        TypeError: the name is no text, or the class does not take an argument.

    Example:
        >>> import torch, torch_gd
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = torch_gd.create_optimizer("adamw", model, lr=1e-3, weight_decay=0.05)
        >>> [group["weight_decay"] for group in optimizer.param_groups]
        [0.0, 0.05]
    """
    if not isinstance(name, str):
        hint = "it comes first, and is one of torch_gd.list_optimizers()"
        raise TypeError(f"Invalid name: {found(name)}; {hint}")
    if name.lower() not in OPTIMIZERS:
        similar = get_close_matches(name.lower(), OPTIMIZERS)
        meant = f"; did you mean {similar[0]!r}?" if similar else ""
        raise ValueError(f"Invalid name: {name!r} is none of {', '.join(list_optimizers())}{meant}")
    kind, defaults = OPTIMIZERS[name.lower()]
    given = {"lr": lr, "weight_decay": weight_decay}
    options = {**defaults, **{key: value for key, value in given.items() if value is not None}, **options}
    params: Any = model_or_params
    if isinstance(params, nn.Module):
        if weight_decay is None:
            weight_decay = inspect.signature(kind).parameters["weight_decay"].default
        params = param_groups_weight_decay(params, weight_decay)
    return kind(params, **options)
