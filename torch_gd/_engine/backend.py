"""The Triton kernels, if Triton is installed. Without it everything works, on torch's own implementations."""

from typing import Any

import torch
from torch import Tensor

from ..triton_kernels import runtime


def _kernels() -> tuple[Any, ...]:
    if not runtime.HAS_TRITON:
        return (None,) * 7
    from ..triton_kernels import codecs, launch, layer_rules, layers, measure, rules, table

    return codecs, launch, layer_rules, layers, measure, rules, table


codecs, launch, layer_rules, layers, measure, rules, table = _kernels()


def serves(tensor: Tensor) -> bool:
    """Return whether our kernels can update a tensor, on this machine and now."""
    return runtime.active.serves(tensor) and not runtime.active.watched()


def to_device(host: Tensor, device: torch.device) -> Tensor:
    """Return a host tensor on a device, to which nothing waits for the copy."""
    return host if device.type == "cpu" else runtime.active.pinned(host).to(device, non_blocking=True)


def interpreted() -> bool:
    """Return whether our kernels run on CPU tensors, as under `TRITON_INTERPRET=1`."""
    return runtime.active.interpreted()


def compiler_errors() -> tuple[type[Exception], ...]:
    """Return what is raised at a launch whose rule can be neither compiled nor interpreted."""
    from triton.compiler.errors import CompilationError
    from triton.runtime.errors import InterpreterError

    return CompilationError, InterpreterError
