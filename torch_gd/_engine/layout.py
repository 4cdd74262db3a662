"""How tensors lie in memory: which of them a kernel may walk in a straight line, and copies of those it may not."""

from collections.abc import Iterable

import torch
from torch import Tensor

from ..triton_kernels import runtime

# The descriptors' own functions go over hundreds of tensors in half the time of a comprehension.
DTYPE_OF, DEVICE_OF, SHAPE_OF, LAYOUT_OF = (
    getattr(Tensor, name).__get__ for name in ("dtype", "device", "shape", "layout")
)


def is_plain(tensor: Tensor) -> bool:
    """Return whether a tensor is strided and of no subclass."""
    return type(tensor) in runtime.active.plain_types and tensor.layout == torch.strided


def all_plain(tensors: list[Tensor]) -> bool:
    """Return whether all tensors are strided and of no subclass."""
    return set(map(type, tensors)) <= set(runtime.active.plain_types) and set(map(LAYOUT_OF, tensors)) <= {
        torch.strided
    }


def all_on_cpu(tensors: Iterable[Tensor]) -> bool:
    """Return whether all tensors are on the CPU."""
    return all(tensor.is_cpu for tensor in tensors)


def is_dense(tensor: Tensor) -> bool:
    """Return whether the elements fill one stretch of memory, each once, in whatever order of dimensions."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(tensor.stride(), tensor.shape) if size != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def same_layout(a: Tensor, b: Tensor) -> bool:
    """Return whether equal indices are equal offsets in two tensors of one shape."""
    if a.stride() == b.stride():
        return True
    return a.numel() == 0 or all(s == t or n == 1 for s, t, n in zip(a.stride(), b.stride(), a.shape))


def same_strides(a: list[Tensor], b: list[Tensor]) -> bool:
    """Return whether two lists of tensors have equal strides, one by one."""
    return list(map(Tensor.stride, a)) == list(map(Tensor.stride, b))


def overlaps_itself(tensor: Tensor) -> bool:
    """Return whether several elements share one place in memory, as after `expand`: such a tensor cannot be written."""
    return any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape))


def memory_span(tensor: Tensor) -> tuple[int, int]:
    """Return the address of a tensor's first byte, and the one behind its last."""
    start = tensor.data_ptr()
    if tensor.is_contiguous():
        return start, start + tensor.nbytes
    last = sum(stride * (size - 1) for stride, size in zip(tensor.stride(), tensor.shape))
    return start, start + (last + 1) * tensor.element_size()


def has_real_storage(tensor: Tensor) -> bool:
    """Return whether memory holds the tensor's values, not their negatives, and is not a zero tensor of autograd's."""
    return not (tensor.is_neg() or tensor._is_zerotensor())


def all_have_real_storage(tensors: list[Tensor]) -> bool:
    """Return whether memory holds the values of all tensors."""
    return not (any(map(Tensor.is_neg, tensors)) or any(map(Tensor._is_zerotensor, tensors)))


def with_real_storage(tensor: Tensor) -> Tensor:
    """Return the tensor, or a copy whose memory holds its values."""
    return tensor if has_real_storage(tensor) else tensor.clone()


def in_layout_of(tensor: Tensor, like: Tensor) -> Tensor:
    """Return the tensor, or a copy that lies in memory as the dense tensor `like` does."""
    if same_layout(tensor, like):
        return tensor
    return torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)


def moved_to(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Return the tensor, or a copy on a device; only a copy to the host waits, since it could be read too early."""
    return tensor.to(device, dtype or tensor.dtype, non_blocking=device.type != "cpu")
