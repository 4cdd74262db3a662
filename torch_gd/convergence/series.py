"""A growing series of numbers that stay where they are until someone looks."""

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK = 1024  # numbers a buffer: 8 KB


class Series:
    """Numbers in the order they came; a tensor is copied into a buffer on its own device, without waiting for it.

    A copy, because a loss may live in memory that the next step overwrites (CUDA graphs do so).

    Example:
        >>> losses = Series()
        >>> losses.append(loss)  # later: losses.values()
    """

    def __init__(self) -> None:
        self._read: list[float] = []
        self._buffers: list[Tensor] = []
        self._filled = 0  # of the last buffer

    def append(self, value: float | Tensor) -> None:
        """Adds a number or a tensor of one element; raises `ValueError` for a tensor of more."""
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise ValueError(f"a loss must be one number, but has shape {tuple(value.shape)}; reduce it first")
            value = value.detach().reshape(())
        device = value.device if isinstance(value, Tensor) else torch.device("cpu")
        if not self._buffers or self._filled == CHUNK or self._buffers[-1].device != device:
            self._close_buffer()
            dtype = torch.float32 if device.type == "mps" else torch.float64
            self._buffers.append(torch.empty(CHUNK, dtype=dtype, device=device))
            self._filled = 0
        self._buffers[-1][self._filled] = value
        self._filled += 1

    def values(self) -> list[float]:
        """All numbers, as floats; waits for those on a GPU."""
        self._close_buffer()
        for buffer in self._buffers:
            self._read += buffer.tolist()
        self._buffers, self._filled = [], 0
        return self._read

    def __len__(self) -> int:
        return len(self._read) + sum(len(buffer) for buffer in self._buffers[:-1]) + self._filled

    def __iter__(self) -> Iterator[float]:
        return iter(self.values())

    def _close_buffer(self) -> None:
        if self._buffers:
            self._buffers[-1] = self._buffers[-1][: self._filled]
