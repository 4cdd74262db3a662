"""What is clipped: tensors that can be measured and written, as metadata shows before any of them is changed."""

import types
import warnings
from collections.abc import Callable, Iterable, Sequence
from enum import Flag, auto
from typing import Any

import torch
from torch import Tensor

from .._arguments import as_list, found, naming
from .._engine.layout import DTYPE_OF, LAYOUT_OF, overlaps_itself

ORDINARY = {torch.float32, torch.float64, torch.bfloat16, torch.float16}


class Use(Flag):
    """What is done to tensors: each member makes its own demands."""

    MEASURED = auto()
    SCALED = auto()
    BY_ELEMENT = auto()  # clamped, or measured by unit: for this, elements must be there and have an order


_Problem = tuple[Use, Callable[[Tensor], bool], str, str]
_WRITTEN = Use.SCALED | Use.BY_ELEMENT
_PROBLEMS: list[_Problem] = [  # use, test, torch's own text, what to do
    (
        _WRITTEN,
        lambda t: t.is_inference() and not torch.is_inference_mode_enabled(),
        "Inplace update to inference tensor outside InferenceMode is not allowed",
        "clone() it first",
    ),
    (
        _WRITTEN,
        lambda t: t.requires_grad and t.is_leaf and torch.is_grad_enabled(),
        "a leaf Variable that requires grad is being used in an in-place operation",
        "detach() it first",
    ),
    (_WRITTEN, lambda t: t._is_zerotensor(), "ZeroTensors are immutable", "clone() it first"),
    (
        _WRITTEN,
        lambda t: t.layout == torch.strided and not t.is_contiguous() and overlaps_itself(t),
        "unsupported operation: more than one element of the written-to tensor refers to a single memory location",
        "clone() it first, as after expand()",
    ),
    (
        Use.MEASURED | _WRITTEN,
        # torch has neither arithmetic for 8-bit floating point.
        lambda t: not (t.is_floating_point() or t.is_complex()) or t.dtype.itemsize == 1,
        "Expected a floating point or complex tensor",
        "cast it to float32 first",
    ),
    (
        Use.MEASURED | Use.BY_ELEMENT,
        lambda t: t.layout not in (torch.strided, torch.jagged),
        "Sparse layouts are not supported",
        "to_dense() it first",
    ),
    (Use.BY_ELEMENT, Tensor.is_complex, "Complex types are not supported", "clip by the norm instead"),
]


def check(tensors: Sequence[Tensor], use: Use, name_of: Callable[[int], str]) -> None:
    """Raise for a tensor that cannot be used, before any is changed.

    Args:
        tensors: all of them.
        use: what is to be done to them.
        name_of: returns the name of a tensor from its place.

    Raises:
        RuntimeError: a tensor whose memory, layout or dtype does not allow it, named.
    """
    if _all_ordinary(tensors):
        return
    for i, tensor in enumerate(tensors):
        for uses, has_problem, torchs_text, advice in _PROBLEMS:
            if use & uses and has_problem(tensor):
                what = f"{name_of(i)}, of shape {tuple(tensor.shape)}, is {tensor.dtype} on {tensor.device}"
                raise RuntimeError(f"{torchs_text}: {what}, in layout {tensor.layout}; {advice}")


def _all_ordinary(tensors: Sequence[Tensor]) -> bool:
    """Return whether nothing needs to be looked at more closely; asked of all at once, since there may be thousands."""
    return (
        set(map(LAYOUT_OF, tensors)) <= {torch.strided}
        and set(map(DTYPE_OF, tensors)) <= ORDINARY
        and all(map(Tensor.is_contiguous, tensors))
        and not any(map(Tensor.is_inference, tensors))
        and not any(map(Tensor._is_zerotensor, tensors))
        and not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
    )


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
