"""Whether tensors still are what they were. Over hundreds of small tensors, asking is most of a step's cost."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

# What torch itself checks before it runs a compiled function. It is not public, so it must prove itself below when it
# is imported; without it, every step takes the slow check.
_TENSOR_GUARDS: Any = getattr(getattr(getattr(torch._C, "_dynamo", None), "guards", None), "TensorGuards", None)


class Guard:
    """Type, dtype, device, shape and strides of tensors.

    `holds(*tensors)` returns True if other tensors, in the same number, have the same. False means unknown, for
    example under autocast: run a slow check.

    Args:
        tensors: each must be strided.

    Example:
        >>> import torch
        >>> from torch_gd._engine.guard import Guard
        >>> guard = Guard([torch.zeros(2, 3)])
        >>> guard.holds(torch.ones(2, 3)), guard.holds(torch.ones(3, 2))
        (True, False)
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.holds: Callable[..., bool] = _unknown
        if _TENSOR_GUARDS is not None:
            for tensor in tensors:
                tensor.stride()  # raises for a sparse tensor, for which torch's guards would end the process
            self.holds = _TENSOR_GUARDS(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None).check


def _unknown(*tensors: object) -> bool:
    return False


def addresses_of(tensors: Iterable[Tensor]) -> list[int]:
    """Return where in memory tensors lie."""
    return list(map(Tensor.data_ptr, tensors))


def _guards_work() -> bool:
    like, wide = torch.zeros(2, 2, device="cpu"), torch.zeros(4, 4, device="cpu")
    others = (like.double(), like[:1], wide[::2, ::2], like.to_sparse(), torch.nn.Parameter(like), None)
    try:
        guard = Guard([wide[:2, :2].clone()])
        return guard.holds(like) and not any(guard.holds(other) for other in others)
    except (RuntimeError, TypeError):
        return False


if not _guards_work():
    _TENSOR_GUARDS = None
