"""Whether tensors are still what and where they were: for hundreds of small ones, asking is most of a step's cost."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# What torch itself asks, before a compiled function and before a CUDA graph. Not public, so not relied on: each must
# prove itself below when it is imported, and has a stand-in.
_TENSOR_GUARDS: Any = getattr(getattr(getattr(torch._C, "_dynamo", None), "guards", None), "TensorGuards", None)
_LIE_AT: Any = getattr(torch._C, "_tensors_data_ptrs_at_indices_equal", None)  # CUDA builds only


class Guard:
    """Type, dtype, device, shape and strides of tensors.

    Args:
        tensors: what is to stay as it is; each has strides.

    Example:
        >>> guard = Guard(params)
        >>> guard.holds(*params)
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._check: Any = None
        if _TENSOR_GUARDS is not None:
            for tensor in tensors:
                tensor.stride()  # raises where torch's guards would end the process
            self._check = _TENSOR_GUARDS(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None).check

    def holds(self, *tensors: Tensor | None) -> bool:
        """Whether nothing has changed for certain; if not, look for yourself: autocast, say, makes it doubt."""
        return self._check is not None and bool(self._check(*tensors))


class Places:
    """Where in memory tensors lie, in `addresses`.

    Args:
        tensors: a list of any number.
    """

    def __init__(self, tensors: list[Tensor]) -> None:
        self.addresses = list(map(Tensor.data_ptr, tensors))
        self._indices = list(range(len(tensors)))

    def hold(self, tensors: list[Tensor]) -> bool:
        """Whether these, as many as there were, lie in the same places."""
        if _LIE_AT is not None:
            return bool(_LIE_AT(tensors, self.addresses, self._indices))
        return list(map(Tensor.data_ptr, tensors)) == self.addresses

    def follow(self, tensors: list[Tensor]) -> None:
        """Finds them where they lie now. Unless one has moved, `addresses` stays the list that it was."""
        if _LIE_AT is None or not self.hold(tensors):
            addresses = list(map(Tensor.data_ptr, tensors))
            if addresses != self.addresses:
                self.addresses = addresses


def _guards_work() -> bool:
    like, wide = torch.zeros(2, 2, device="cpu"), torch.zeros(4, 4, device="cpu")
    others = (like.double(), like[:1], wide[::2, ::2], like.to_sparse(), torch.nn.Parameter(like), None)
    try:
        guard = Guard([wide[:2, :2].clone()])
        return guard.holds(like) and not any(guard.holds(other) for other in others)
    except (RuntimeError, TypeError):
        return False


def _lie_at_works() -> bool:
    tensors = list(torch.zeros(2, 2, device="cpu").unbind())
    places = Places(tensors)
    try:
        return places.hold(tensors) and not places.hold(tensors[::-1]) and not places.hold([tensors[0], tensors[1][1:]])
    except (RuntimeError, TypeError):
        return False


if not _guards_work():
    _TENSOR_GUARDS = None
if not _lie_at_works():
    _LIE_AT = None
