"""What can be done to gradients, as metadata shows before any of them is changed."""

from collections.abc import Callable, Sequence
from enum import Flag, auto

import torch
from torch import Tensor

from .layout import DTYPE_OF, LAYOUT_OF, overlaps_itself

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
