"""Whether Triton is here. Without it everything works, on torch's own implementations."""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor


def _kernels() -> tuple[Any, Any, Any, Any]:
    """Launches, measurements, rules and tables, or None for each where Triton is not installed."""
    if find_spec("triton") is None:
        return None, None, None, None
    from ..triton_kernels import launch, measure, rules, table

    return launch, measure, rules, table


launch, measure, rules, table = _kernels()


def has_streams(device: torch.device) -> bool:
    """Whether work on a device is put on a stream, of which there may be several."""
    return device.type != "cpu"


def stream_on(device: torch.device) -> int:
    """The current stream of a device, on which a plan's tables are allocated; without Triton there are none."""
    return 0 if table is None else int(table.stream_on(device))


def serves(tensor: Tensor) -> bool:
    """Whether our kernels can update this tensor, on this machine."""
    return launch is not None and launch.serves(tensor)


def interpreted() -> bool:
    """Whether the kernels run on CPU tensors, under `TRITON_INTERPRET=1`."""
    return launch is not None and launch.INTERPRETED
