"""The arguments of the clipping functions, as tensors and numbers."""

import types
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._arguments import as_list, found, naming
from .._engine.ranks import ProcessGroups, why_not_measured

PASS_TENSORS = "pass tensors, such as model.parameters() or their gradients"


def as_tensors(tensors: Any) -> list[Tensor]:
    """Return tensors as a list.

    Raises:
        TypeError: anything but one tensor or an iterable of them.
    """
    every = [tensors] if isinstance(tensors, Tensor) else as_list("tensors", tensors, PASS_TENSORS)
    if not all(issubclass(kind, Tensor) for kind in set(map(type, every))):
        i = next(i for i, t in enumerate(every) if not isinstance(t, Tensor))
        raise TypeError(f"Invalid tensors: item {i} is {found(every[i])}; {PASS_TENSORS}")
    return every


class Gradients(NamedTuple):
    """Parameters with their gradients.

    Args:
        every: all parameters, with or without a gradient.
        params: those that have one.
        grads: their gradients.
        name_of: returns how errors name the gradient at a place of `grads`.
    """

    every: list[Tensor]
    params: list[Tensor]
    grads: list[Tensor]
    name_of: Callable[[int], str]


def with_gradients(
    parameters: Iterable[Tensor] | Tensor, groups: ProcessGroups | None = None, by_unit: bool = False
) -> Gradients:
    """Return parameters with their gradients.

    Args:
        parameters: one or more.
        groups: further process groups that will be asked; None if no norm of all is measured.
        by_unit: whether each unit's norm is measured.

    Raises:
        TypeError: not one tensor or more.
        RuntimeError: parameters that FSDP1 has flattened, and no groups.
    """
    every = [parameters] if isinstance(parameters, Tensor) else as_list("parameters", parameters, PASS_TENSORS)
    if not every and isinstance(parameters, types.GeneratorType):
        warnings.warn("`parameters` is an empty generator, no gradient clipping will occur.", stacklevel=4)
    try:
        grads = [p.grad for p in every]
    except AttributeError as error:
        i = next(i for i, p in enumerate(every) if not hasattr(p, "grad"))
        raise TypeError(f"Invalid parameters: item {i} is {found(every[i])}; {PASS_TENSORS}") from error
    places = [i for i, g in enumerate(grads) if g is not None]

    def name_of(i: int) -> str:
        return f"the gradient of parameter {places[i]}"

    for i, p in enumerate(every if groups is not None or by_unit else ()):
        if why := why_not_measured(p, groups or (), "rows to clip" if by_unit else ""):
            raise RuntimeError(f"parameter {i}, of shape {tuple(p.shape)}, {why}")
    return Gradients(every, [every[i] for i in places], [g for g in grads if g is not None], name_of)


def as_float(name: str, value: Any) -> float:
    """Return an argument of a function of torch's as that does: also of text, such as "inf"."""
    with naming(name, value, f"{name} must be a number"):
        return float(value)


def as_groups(groups: Any) -> ProcessGroups:
    """Return process groups as a tuple; a mesh of one dimension stands for its group.

    Raises:
        TypeError: anything else.
    """
    hint = "pass process groups in a tuple, such as (torch.distributed.group.WORLD,), or meshes of one dimension"
    every = as_list("groups", groups, hint)
    found_groups = []
    for one in every:
        if type(one).__name__ == "DeviceMesh" and one.ndim == 1:
            one = one.get_group()
        if not isinstance(one, getattr(torch.distributed, "ProcessGroup", ())):
            here = "; it is None or -100 on a rank that is no member of it" if one in (None, -100) else ""
            raise TypeError(f"Invalid groups: {found(one)} is no process group{here}; {hint}")
        found_groups.append(one)
    return tuple(found_groups)


def foreach_for(grads: Sequence[Tensor], foreach: bool | None) -> bool | None:
    """Return the `foreach` to pass to torch: its own choice cannot write where the negative or conjugate bit is set."""
    views = foreach is None and (any(map(Tensor.is_neg, grads)) or any(map(Tensor.is_conj, grads)))
    return False if views else foreach
