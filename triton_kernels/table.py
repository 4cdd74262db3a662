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

    That is pinned memory, which torch's caching host allocator keeps until the copy is done; for good, from torch 2.11
    on, if it was allocated during the capture of a CUDA graph, which copies again at each replay. A buffer of our own,
    rewritten every step, would race the copy still in flight from the step before.
    """
    host = values if isinstance(values, Tensor) else torch.frombuffer(values, dtype=_ARRAY_DTYPES[values.typecode])
    return host if device.type == "cpu" else host.pin_memory()


def upload(values: "array[Any] | Tensor", device: torch.device) -> Tensor:
    """A host array as a new device tensor."""
    return staged(values, device).to(device, non_blocking=True)


class Uploaded:
    """Values on a device, uploaded again when they are others.

    Args:
        typecode: `array.array`'s: "d" for doubles, "q" for int64.
        device: where they are to be.

    Example:
        >>> settings = Uploaded("d", device)
        >>> settings([1.0, 0.5])
    """

    def __init__(self, typecode: str, device: torch.device) -> None:
        self._typecode, self._device = typecode, device
        self._values: Sequence[float] | None = None
        self._tensor = torch.empty(0)

    def __call__(self, values: Sequence[float]) -> Tensor:
        if values != self._values:
            self._tensor, self._values = upload(array(self._typecode, values), self._device), values
        return self._tensor


def chunk_map(numels: Sequence[int], block: int) -> Tensor:
    """(tensor, chunk) of every program, as int32 pairs: shape (programs, 2)."""
    host = torch.device("cpu")  # whatever the default device is
    elements = torch.tensor(numels, dtype=torch.int64, device=host)
    counts = (elements + block - 1) // block
    tensors = torch.repeat_interleave(torch.arange(len(numels), device=host), counts)
    first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    return torch.stack([tensors, torch.arange(len(tensors), device=host) - first], dim=1).to(torch.int32)


def capturing(device: torch.device) -> bool:
    """Whether what is done on a device now becomes part of a CUDA graph."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def stream_on(device: torch.device) -> int:
    """The current stream; what is allocated there may be reused there as soon as it is let go of."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def current(device: torch.device) -> AbstractContextManager[None]:
    """Triton launches on the current GPU, which need not be the tensors'."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


class TensorTable:
    """Columns of int64, one entry a tensor.

    Args:
        numels: elements of each tensor.
        addresses: how many columns of addresses.
        device: where it is to lie.

    Example:
        >>> table = TensorTable([p.numel() for p in params], 1, params[0].device)
        >>> table.set(ADDRESSES, [p.data_ptr() for p in params])
    """

    def __init__(self, numels: list[int], addresses: int, device: torch.device) -> None:
        self.n, self.numels, self.device = len(numels), numels, device
        self.data = torch.zeros((ADDRESSES + addresses, self.n), dtype=torch.int64, device=device)
        self._columns: dict[int, list[int]] = {ROW: [0] * self.n}
        self.set(NUMEL, numels)

    def set(self, column: int, values: list[int]) -> None:
        """Uploads a column if it is not what was uploaded last."""
        if self._columns.get(column) != values:
            self.data[column].copy_(staged(array("q", values), self.device), non_blocking=True)
            self._columns[column] = values

    def chunks(self, block: int) -> Tensor:
        """The chunk map on the device, shared by every table of tensors of these sizes on one stream."""
        if capturing(self.device):  # a graph needs one of its own, for as long as it is replayed
            return upload(chunk_map(self.numels, block), self.device)
        key = (tuple(self.numels), block, self.device, stream_on(self.device))
        found = _CHUNK_MAPS.pop(key, None)
        if found is None:
            found = upload(chunk_map(self.numels, block), self.device)
        _CHUNK_MAPS[key] = found
        while len(_CHUNK_MAPS) > 16:
            del _CHUNK_MAPS[next(iter(_CHUNK_MAPS))]
        return found


_CHUNK_MAPS: dict[tuple[tuple[int, ...], int, torch.device, int], Tensor] = {}
