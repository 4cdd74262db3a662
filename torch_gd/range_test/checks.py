"""Checks of the arguments of a range test, and of what its model and loader give."""

from collections.abc import Iterator
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from .._arguments import short


def kinds(model: object, optimizer: object, loss_fn: object, loader: object) -> None:
    """Raise an error that names the first argument which is of another kind: they are easily swapped.

    Raises:
        ValueError: none of the optimizer's parameters is the model's, or a group has no learning rate.
        TypeError: an argument is of another kind, or a class in place of an instance.
    """
    for name, value, fits, kind in (
        ("model", model, isinstance(model, nn.Module), "a torch.nn.Module"),
        ("optimizer", optimizer, hasattr(optimizer, "param_groups"), "a torch.optim.Optimizer"),
        ("loss_fn", loss_fn, callable(loss_fn), "a function of the model's output and the target"),
        ("loader", loader, hasattr(loader, "__iter__") or hasattr(loader, "__getitem__"), "an iterable of batches"),
    ):
        if isinstance(value, type):
            raise TypeError(f"{name} is the class {value.__name__}; pass an instance, {value.__name__}(…)")
        if not fits:
            raise TypeError(
                f"{name} is {type(value).__name__}, not {kind}; "
                "the arguments are lr_range_test(model, optimizer, loss_fn, loader)"
            )
    if isinstance(loader, Iterator):
        raise TypeError("loader is an iterator, which can be gone through only once; pass a DataLoader or a list")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise TypeError("optimizer is LBFGS, whose steps need a closure; it searches for its own step length")
    groups = optimizer.param_groups  # type: ignore[attr-defined]  # checked above
    if any("lr" not in group for group in groups):
        raise ValueError("Invalid optimizer: a group of its has no 'lr', which the test would set")
    if not {p for group in groups for p in group["params"]} & set(model.parameters()):  # type: ignore[attr-defined]
        raise ValueError("Invalid optimizer: none of its parameters is the model's; make it from model.parameters()")


def outputs(progress: object, plot: object) -> None:
    """Check where the test shows what it does, before it begins."""
    if progress not in (None, True, False):
        raise TypeError(f"progress is {short(progress)}, not True, False or None")
    if plot is not None and not isinstance(plot, (str, PathLike)):
        raise TypeError(f"plot is {short(plot)}, not the name of a file")
    if plot is not None and (Path(plot).is_dir() or not Path(plot).parent.is_dir()):
        raise ValueError(f"plot is {short(plot)}: name a file in a folder that is there")


def loss(value: object) -> None:
    """Check what `loss_fn` returned."""
    if not isinstance(value, Tensor):
        raise TypeError(f"Invalid loss_fn: its loss is {short(value)}, not a tensor")
    if value.numel() != 1:
        raise ValueError(f"Invalid loss_fn: its loss has shape {tuple(value.shape)}, not one element; reduce it")
    if not value.requires_grad:
        raise ValueError("Invalid loss_fn: its loss has no gradient; nothing that it depends on requires one")
