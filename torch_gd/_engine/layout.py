"""Memory: which tensors a kernel may walk in a straight line, stand-ins for those it may not, copies elsewhere."""

from collections.abc import Iterable

import torch
from torch import Tensor

PLAIN = (Tensor, torch.nn.Parameter)  # a subclass may mean anything by its data
# Descriptors' own functions, which go over hundreds of tensors in half the time of a comprehension.
DTYPE_OF, DEVICE_OF, SHAPE_OF, LAYOUT_OF = (
    getattr(Tensor, name).__get__ for name in ("dtype", "device", "shape", "layout")
)


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is what it seems: no subclass, and strided."""
    return type(tensor) in PLAIN and tensor.layout == torch.strided


def are_plain(tensors: list[Tensor]) -> bool:
    """Whether all of them are."""
    return set(map(type, tensors)) <= set(PLAIN) and set(map(LAYOUT_OF, tensors)) <= {torch.strided}


def on_cpu(tensors: Iterable[Tensor]) -> bool:
    """Whether all are on the CPU."""
    return all(tensor.is_cpu for tensor in tensors)


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill one stretch of memory, each once, in whatever order of dimensions."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(tensor.stride(), tensor.shape) if size != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def same_layout(a: Tensor, b: Tensor) -> bool:
    """Whether equal indices are equal offsets in two tensors of one shape; dimensions of size 1 do not matter."""
    if a.stride() == b.stride():
        return True
    return a.numel() == 0 or all(s == t or n == 1 for s, t, n in zip(a.stride(), b.stride(), a.shape))


def same_strides(a: list[Tensor], b: list[Tensor]) -> bool:
    """Whether two lists of tensors, as long as each other, are strided alike."""
    return list(map(Tensor.stride, a)) == list(map(Tensor.stride, b))


def overlaps_itself(tensor: Tensor) -> bool:
    """Whether an element is its own neighbour, as in what `expand` returns: such a tensor cannot be written."""
    return any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape))


def is_literal(tensor: Tensor) -> bool:
    """Whether memory holds the values themselves: not their negatives, as autograd may leave them, and not nothing."""
    return not (tensor.is_neg() or tensor._is_zerotensor())


def are_literal(tensors: list[Tensor]) -> bool:
    """Whether all of them are."""
    return not (any(map(Tensor.is_neg, tensors)) or any(map(Tensor._is_zerotensor, tensors)))


def literal(tensor: Tensor) -> Tensor:
    """`tensor`, or a copy of it whose memory holds its values."""
    return tensor if is_literal(tensor) else tensor.clone()


def in_layout_of(tensor: Tensor, like: Tensor) -> Tensor:
    """`tensor`, or a copy of it that lies in memory as the dense tensor `like` does."""
    if same_layout(tensor, like):
        return tensor
    return torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)


def moved_to(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """`tensor`, or a copy on a device. Waits only for one on the host, which could be read before it has arrived."""
    return tensor.to(device, dtype or tensor.dtype, non_blocking=device.type != "cpu")
