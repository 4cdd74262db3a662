"""What the device is told of a list of tensors: a table, stored by column, of which only what changed is uploaded."""

from array import array
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from . import runtime

TRITON_DTYPES = {
    torch.float32: tl.float32,
    torch.float64: tl.float64,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}
NUMEL, ROW, ADDRESSES = 0, 1, 2  # columns: elements; row of scalars; addresses of parameter, gradient, states
_HOST = torch.device("cpu")
_ARRAY_DTYPES = {"q": torch.int64, "f": torch.float32, "d": torch.float64}


def staged(values: "array[Any] | Tensor", device: torch.device) -> Tensor:
    """Return a host array as a tensor from which a copy to the device does not wait.

    On a GPU that is pinned memory. torch's caching host allocator keeps it until the copy is done; if it was allocated
    while a CUDA graph was captured, torch 2.11 and newer keep it as long as the graph, which copies from it again at
    each replay. A buffer of our own, rewritten every step, would race the copy still in flight from the step before.
    """
    host = values if isinstance(values, Tensor) else torch.frombuffer(values, dtype=_ARRAY_DTYPES[values.typecode])
    return host if device == _HOST else runtime.active.pinned(host)


def upload(values: "array[Any] | Tensor", device: torch.device) -> Tensor:
    """Return a host array as a new tensor on the device."""
    return staged(values, device).to(device, non_blocking=True)


class Uploaded:
    """Values on a device, uploaded again only when they differ from the last ones.

    Args:
        typecode: `array.array`'s: "d" for doubles, "q" for int64.
        device: where the values are to be.
    """

    def __init__(self, typecode: str, device: torch.device) -> None:
        self._typecode, self._device = typecode, device
        self._values: Sequence[float] | None = None
        self._tensor = torch.empty(0)

    def __call__(self, values: Sequence[float]) -> Tensor:
        """Return the tensor that holds these values."""
        if values != self._values:
            self._tensor, self._values = upload(array(self._typecode, values), self._device), values
        return self._tensor


def chunk_map(numels: Sequence[int], block: int) -> Tensor:
    """Return the (tensor, chunk) that each program works on, as int32 pairs: shape (programs, 2)."""
    elements = torch.tensor(numels, dtype=torch.int64, device=_HOST)  # whatever the default device is
    counts = (elements + block - 1) // block
    tensors = torch.repeat_interleave(torch.arange(len(numels), device=_HOST), counts)
    first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    return torch.stack([tensors, torch.arange(len(tensors), device=_HOST) - first], dim=1).to(torch.int32)


def current(device: torch.device) -> AbstractContextManager[None]:
    """Return a context in which the tensors' GPU is the current one, on which Triton launches; it may be used again."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


class TensorTable:
    """Columns of int64 on a device, one entry a tensor.

    Args:
        numels: elements of each tensor.
        columns: how many columns of addresses there are.
        device: where the table is to lie.
        others: columns that follow the addresses.
    """

    def __init__(
        self, numels: list[int], columns: int, device: torch.device, others: Sequence[list[int]] | None = None
    ) -> None:
        self.n, self.numels, self.device = len(numels), numels, device
        others = others or ()
        self.data = torch.zeros((ADDRESSES + columns + len(others), self.n), dtype=torch.int64, device=device)
        self._uploaded: dict[int, list[int]] = {ROW: [0] * self.n}
        self._addresses: list[int] = []
        self._set(NUMEL, numels)
        for i, values in enumerate(others):
            self._set(ADDRESSES + columns + i, values)

    def set_rows(self, rows: list[int]) -> None:
        """Upload which row of scalars is each tensor's."""
        self._set(ROW, rows)

    def set_addresses(self, addresses: list[int]) -> None:
        """Upload the columns of addresses that have changed; `addresses` holds one column after the other."""
        if addresses is not self._addresses:
            for column in range(len(addresses) // self.n):
                self._set(ADDRESSES + column, addresses[column * self.n : (column + 1) * self.n])
            self._addresses = addresses

    def _set(self, column: int, values: list[int]) -> None:
        last = self._uploaded.get(column)
        if last is not values and last != values:
            self.data[column].copy_(staged(array("q", values), self.device), non_blocking=True)
            self._uploaded[column] = values

    def chunks(self, block: int) -> Tensor:
        """Return the chunk map on the device, shared by all tables of tensors of these sizes on one stream."""
        if runtime.active.capturing():  # a graph needs one of its own, for as long as it is replayed
            return upload(chunk_map(self.numels, block), self.device)
        key = (tuple(self.numels), block, self.device, runtime.active.stream_on(self.device))
        found = _CHUNK_MAPS.pop(key, None)
        if found is None:
            found = upload(chunk_map(self.numels, block), self.device)
        _CHUNK_MAPS[key] = found
        while len(_CHUNK_MAPS) > 16:
            del _CHUNK_MAPS[next(iter(_CHUNK_MAPS))]
        return found


_CHUNK_MAPS: dict[tuple[tuple[int, ...], int, torch.device, int], Tensor] = {}
