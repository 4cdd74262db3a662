"""A growing series of numbers that stay on their device until they are read."""

from collections.abc import Iterator

import torch
from torch import Tensor

from .._arguments import real
from .._engine.sharing import whole

CHUNK = 1024  # numbers in a buffer, of 8 KB


class Series:
    """Numbers in the order in which they came.

    A tensor is copied into a buffer on its own device, without waiting for it. It is copied because the next step may
    overwrite its memory, as a CUDA graph does.

    Example:
        >>> import torch
        >>> from torch_gd.convergence.series import Series
        >>> losses = Series()
        >>> losses.append(torch.tensor(0.5))
        >>> losses.append(0.25)
        >>> losses.values()
        [0.5, 0.25]
    """

    def __init__(self) -> None:
        self._read: list[float] = []
        self._buffers: list[Tensor] = []
        self._filled = 0  # length of the used part of the last buffer

    def append(self, value: float | Tensor) -> None:
        """Add a number, or a tensor of one element.

        Raises:
            ValueError: the tensor has more elements.
            TypeError: it is something else, or a tensor of complex numbers.
        """
        if not isinstance(value, Tensor):
            value = real("loss", value, advice="; leave the call out while there is none")
        else:
            if value.is_complex():
                raise TypeError(f"Invalid loss: a tensor of {value.dtype}; it must be of real numbers")
            if value.numel() != 1:
                raise ValueError(f"Invalid loss: it has shape {tuple(value.shape)}, not one element; reduce it first")
            value = whole(value).reshape(())
        device = value.device if isinstance(value, Tensor) else torch.device("cpu")
        if not self._buffers or self._filled == CHUNK or self._buffers[-1].device != device:
            self._close_buffer()
            dtype = torch.float32 if device.type == "mps" else torch.float64
            self._buffers.append(torch.empty(CHUNK, dtype=dtype, device=device))
            self._filled = 0
        self._buffers[-1][self._filled] = value
        self._filled += 1

    def values(self) -> list[float]:
        """Return all numbers as floats; waits for those on a GPU."""
        self._close_buffer()
        for buffer in self._buffers:
            self._read += buffer.tolist()
        self._buffers, self._filled = [], 0
        return self._read

    def __len__(self) -> int:
        return len(self._read) + sum(len(buffer) for buffer in self._buffers[:-1]) + self._filled

    def __iter__(self) -> Iterator[float]:
        return iter(self.values())

    def __repr__(self) -> str:
        return f"Series({len(self)} numbers)"

    def _close_buffer(self) -> None:
        """Cut the last buffer to its used part."""
        if self._buffers:
            self._buffers[-1] = self._buffers[-1][: self._filled]
