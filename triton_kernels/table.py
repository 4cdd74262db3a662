"""What the device is told of a list of tensors: a table, by column, of which only what moved is uploaded again."""

from array import array
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

TRITON_DTYPES = {
    torch.float32: tl.float32,
    torch.float64: tl.float64,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}
NUMEL, ROW, ADDRESSES = 0, 1, 2  # columns: elements; row of scalars; addresses of parameter, gradient, states
_ARRAY_DTYPES = {"q": torch.int64, "f": torch.float32, "d": torch.float64}


def staged(values: "array[Any] | Tensor", device: torch.device) -> Tensor:
    """A host array where a copy to the device does not wait for it.

    That is pinned memory which torch's caching host allocator keeps until the copy is done: a buffer of our own,
    rewritten every step, would race the copy still in flight from the step before.
    """
    host = values if isinstance(values, Tensor) else torch.frombuffer(values, dtype=_ARRAY_DTYPES[values.typecode])
    return host if device.type == "cpu" else host.pin_memory()


def upload(values: "array[Any] | Tensor", device: torch.device) -> Tensor:
    """A host array as a new device tensor, without waiting."""
    return staged(values, device).to(device, non_blocking=True)


def chunk_map(numels: Sequence[int], block: int) -> Tensor:
    """(tensor, chunk) of every program, as int32 pairs: shape (programs, 2)."""
    elements = torch.tensor(numels, dtype=torch.int64)
    counts = (elements + block - 1) // block
    tensors = torch.repeat_interleave(torch.arange(len(numels)), counts)
    first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    return torch.stack([tensors, torch.arange(len(tensors)) - first], dim=1).to(torch.int32)


def current(device: torch.device) -> AbstractContextManager[None]:
    """Triton launches on the current GPU, which need not be the tensors'."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


class TensorTable:
    """Columns of int64, one entry a tensor.

    Args:
        numels: elements of each tensor.
        addresses: how many columns of addresses.
        device: where it is to lie.
        capturable: keep pinned memory at hand for a column that moves while a CUDA graph is captured, when none can be
            allocated. A replay copies from it again, so that it is used once and kept.

    Example:
        >>> table = TensorTable([p.numel() for p in params], 1, params[0].device)
        >>> table.set(ADDRESSES, [p.data_ptr() for p in params])
    """

    def __init__(self, numels: list[int], addresses: int, device: torch.device, capturable: bool = False) -> None:
        self.n, self.numels, self.device = len(numels), numels, device
        self.data = torch.zeros((ADDRESSES + addresses, self.n), dtype=torch.int64, device=device)
        self._capturable = capturable and device.type == "cuda"
        self._spare: list[Tensor] = []
        self._captured: list[Tensor] = []
        self._columns: dict[int, list[int]] = {ROW: [0] * self.n}
        self.set(NUMEL, numels)

    def set(self, column: int, values: list[int]) -> None:
        """Uploads a column if it is not what was uploaded last."""
        if self._columns.get(column) == values:
            return
        source = array("q", values)
        if self._capturable and torch.cuda.is_current_stream_capturing():
            if not self._spare:
                raise RuntimeError(
                    "a CUDA graph is being captured and gradients have moved more than once since the last step outside"
                    " of it; take one step before each capture"
                )
            self._captured.append(self._spare.pop())
            self._captured[-1].copy_(torch.frombuffer(source, dtype=torch.int64))
            self.data[column].copy_(self._captured[-1], non_blocking=True)
        else:
            self.data[column].copy_(staged(source, self.device), non_blocking=True)
            if self._capturable and not self._spare:
                self._spare = [torch.empty(self.n, dtype=torch.int64, pin_memory=True)]
        self._columns[column] = values
