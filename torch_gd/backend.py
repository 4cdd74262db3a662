"""Whether Triton is here. Without it everything works, on torch's own implementations."""

from importlib.util import find_spec
from typing import Any

from torch import Tensor


def _kernels() -> tuple[Any, Any, Any]:
    """Launches, measurements and rules, or None for each where Triton is not installed."""
    if find_spec("triton") is None:
        return None, None, None
    from .triton_kernels import launch, measure, rules

    return launch, measure, rules


launch, measure, rules = _kernels()


def serves(tensor: Tensor) -> bool:
    """Whether our kernels can update this tensor, on this machine."""
    return launch is not None and launch.serves(tensor)


def interpreted() -> bool:
    """Whether the kernels run on CPU tensors, under `TRITON_INTERPRET=1`."""
    return launch is not None and launch.INTERPRETED
