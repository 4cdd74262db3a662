"""The tensors that steps are timed on: parameters with gradients."""

import gc
import math
from collections.abc import Iterable

import torch
from torch import Tensor

from .shapes import Shapes

ALIGNMENT = 512  # bytes: torch's caching allocator on a GPU starts every tensor at a multiple of this


def dtype_name(dtype: torch.dtype) -> str:
    """Return a dtype's name without `torch.`."""
    return str(dtype).removeprefix("torch.")


def add_gradients(params: Iterable[Tensor]) -> None:
    """Give each parameter a random gradient of its shape, dtype and memory layout."""
    for p in params:
        p.grad = torch.randn_like(p)


def separate_parameters(shapes: Shapes) -> list[Tensor]:
    """Return float32 parameters with gradients on the CPU, each in an allocation of its own."""
    params = [torch.randn(shape).requires_grad_() for shape in shapes]
    add_gradients(params)
    return params


def packed_parameters(shapes: Shapes, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Return parameters with gradients, aligned as torch's GPU allocator would, in two allocations altogether."""
    step = ALIGNMENT // dtype.itemsize
    sizes = [math.prod(shape) for shape in shapes]
    places = [step * math.ceil(size / step) for size in sizes]
    values, grads = (
        [place[:size].view(shape) for place, size, shape in zip(torch.split(slab, places), sizes, shapes)]
        for slab in (torch.randn(sum(places), dtype=dtype, device=device) for _ in range(2))
    )
    for p, g in zip(values, grads):
        p.requires_grad_().grad = g
    return values


def release(device: torch.device) -> None:
    """Give unused GPU memory back, so that no configuration finds what another left."""
    if device.type == "cuda":
        gc.collect()  # an optimizer and its plan refer to each other
        torch.cuda.empty_cache()
