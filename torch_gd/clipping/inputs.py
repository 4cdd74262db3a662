"""The arguments of the clipping functions, as tensors and numbers."""

import types
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor

from .._arguments import as_list, found, naming

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


def with_gradients(parameters: Iterable[Tensor] | Tensor) -> tuple[list[Tensor], list[Tensor], Callable[[int], str]]:
    """Return the parameters that have a gradient, their gradients, and how errors name these.

    Raises:
        TypeError: not one tensor or more.
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

    return [every[i] for i in places], [g for g in grads if g is not None], name_of


def as_float(name: str, value: Any) -> float:
    """Return an argument of a function of torch's as that does: also of text, such as "inf"."""
    with naming(name, value, f"{name} must be a number"):
        return float(value)


def foreach_for(grads: Sequence[Tensor], foreach: bool | None) -> bool | None:
    """Return the `foreach` to pass to torch: its own choice cannot write where the negative or conjugate bit is set."""
    views = foreach is None and (any(map(Tensor.is_neg, grads)) or any(map(Tensor.is_conj, grads)))
    return False if views else foreach
