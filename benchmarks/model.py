"""Finds the model that `--model package.module:function` names, and makes its parameters ready for a step."""

import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .report import one_line
from .tensors import add_gradients


class ModelError(Exception):
    """A model that cannot be timed; the message is one line for the user."""


def load(name: str) -> Any:
    """Return what the function `package.module:function` returns; the current directory is importable.

    Raises:
        ModelError: the name has no colon, or the module or function is missing or raises.
    """
    module_name, colon, function_name = name.partition(":")
    if not (module_name and colon and function_name):
        raise ModelError(f"{name!r} is not of the form package.module:function")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = import_module(module_name)
    except (Exception, SystemExit) as error:  # a script that is not meant to be imported may end the process
        reason = one_line(error)
        raise ModelError(f"cannot import {module_name!r}: {reason}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ModelError(f"{module_name!r} has no function {function_name!r}")
    try:
        return function()
    except (Exception, SystemExit) as error:
        reason = one_line(error)
        raise ModelError(f"{name} raised {reason}") from error


def trainable(model: Any) -> list[Tensor]:
    """Return the tensors of a module or an iterable that an optimizer updates, without frozen parameters.

    Raises:
        ModelError: there are none, or something else is among them.
    """
    if isinstance(model, nn.Module):
        model = model.parameters()
    if isinstance(model, Tensor) or not isinstance(model, Iterable):
        raise ModelError(f"the function returned {type(model).__name__}, not a module or an iterable of tensors")
    try:
        listed = list(model)
    except Exception as error:
        raise ModelError(f"what the function returned raised {one_line(error)}") from error
    found = {}  # by identity: a parameter that is listed twice is updated once
    for p in listed:
        if not isinstance(p, Tensor):
            raise ModelError(f"the function returned an iterable of {type(p).__name__}, not of tensors")
        if p.requires_grad or not isinstance(p, nn.Parameter):
            found[id(p)] = p
    if not found:
        raise ModelError("the function returned no parameters that require a gradient")
    return list(found.values())


def prepare(params: list[Tensor], device: torch.device, dtype: torch.dtype | None) -> list[Tensor]:
    """Return the parameters on a device, each with a random gradient; in memory of their own if it holds them.

    Raises:
        ModelError: they cannot be moved there, or cannot have a gradient.
    """
    try:
        moved = [p.detach().to(device, dtype).requires_grad_() for p in params]
        add_gradients(moved)
    except (RuntimeError, ValueError, AssertionError) as error:  # torch without CUDA asserts
        raise ModelError(f"cannot time these parameters on {device}: {one_line(error)}") from error
    return moved
