"""Codecs on torch's operators: what `torch_gd.triton_kernels.codecs` does in the kernels, for whole tensors."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

GROUP = 32  # elements that share a scale
_NEAREST = 0x80000000  # the noise that rounds to nearest
_WORD = (1 << 32) - 1


class Column(NamedTuple):
    """What is stored of a parameter or of one of its states.

    Args:
        name: key of the state; empty for the parameter itself.
        kind: "plain", "stochastic", "split16", "split8", "signed8" or "unsigned8".
        dtype: dtype of the stored tensor that has an entry for each element; None leaves the dtype as it is.
    """

    name: str
    kind: str = "plain"
    dtype: torch.dtype | None = None

    @property
    def stored(self) -> tuple[str, ...]:
        """Return the keys in the state under which it is stored."""
        if self.name == "":
            return ("remainder",) if self.kind.startswith("split") else ()
        return (f"{self.name}_code", f"{self.name}_scale") if self.kind.endswith("signed8") else (self.name,)

    @property
    def dtypes(self) -> tuple[torch.dtype | None, ...]:
        """Return the dtypes of what is stored under these keys."""
        if self.name == "":
            return {"split16": (torch.int16,), "split8": (torch.int8,)}.get(self.kind, ())
        return (torch.int8, torch.float32) if self.kind.endswith("signed8") else (self.dtype,)

    @property
    def noisy(self) -> bool:
        """Return whether it is rounded by noise."""
        return self.kind in ("stochastic", "signed8", "unsigned8")

    def shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """Return the shapes of what is stored, for a parameter of this shape."""
        return (shape, scale_shape(shape))[: len(self.stored)]

    @property
    def bytes(self) -> float:
        """Return the bytes an element that are stored in the state."""
        each = [0 if dtype is None else dtype.itemsize for dtype in self.dtypes]
        return each[0] + each[1] / GROUP if len(each) == 2 else float(sum(each))


class Storage(NamedTuple):
    """How a parameter and its states are stored, and why not as was asked.

    Args:
        weight: kind of the parameter's column.
        states: "float32", "bf16" or "8bit".
        why: why full precision is kept, if it is; empty if it is not.
    """

    weight: str
    states: str
    why: str = ""


def scale_shape(shape: torch.Size) -> torch.Size:
    """Return the shape of the scales: a row for each of the parameter's, so that they are sharded as it is."""
    whole = shape.numel()
    return torch.Size([whole // GROUP] if len(shape) < 2 else [shape[0], whole // max(shape[0], 1) // GROUP])


def has_groups(shape: torch.Size) -> bool:
    """Return whether the rows of a tensor, or a vector, divide into groups."""
    row = shape.numel() if len(shape) < 2 else shape.numel() // max(shape[0], 1)
    return len(shape) > 0 and row > 0 and row % GROUP == 0


def noise(like: Tensor, key: int, first: int, step: int) -> Tensor:
    """Return 32 bits of noise an element, as int64: a function of global element index, step and tensor key only."""
    turn = (key + step * 0x6C8E9CF5 + first * 0x9E3779B1) & _WORD
    places = torch.arange(like.numel(), device=like.device).view(like.shape)
    return ((places & _WORD) * 0x9E3779B1 + turn) & _WORD


def shifted(noise: Tensor, column: int) -> Tensor:
    """Return other noise for another column, or columns would round up together."""
    return (noise + column * 0x1F83D9AB) & _WORD


def decode(column: Column, stored: Sequence[Tensor]) -> Tensor:
    """Return a column as float32, not one of the tensors given.

    Args:
        column: how it is stored.
        stored: the tensors; of the parameter, itself first.
    """
    first = stored[0]
    if column.kind.startswith("split"):
        word = first.view(torch.int16).to(torch.int32) << 16
        bits = word + (stored[1].to(torch.int32) << (0 if column.kind == "split16" else 8))
        return torch.where((bits ^ word) < 0, word, bits).view(torch.float32)
    if column.kind.endswith("signed8"):
        code = first if column.kind == "signed8" else first.view(torch.uint8)
        root = code.float() * _spread(stored[1], first)
        return root * root.abs() if column.kind == "signed8" else (root * root).square()
    return first.to(torch.float32, copy=True)


def encode(column: Column, x: Tensor, stored: Sequence[Tensor], noise: Tensor | None = None) -> None:
    """Write float32 values into the tensors that store a column; without noise, rounded to nearest."""
    if column.kind == "stochastic":
        stored[0].copy_(_stochastic(x, stored[0].dtype, noise))
    elif column.kind.startswith("split"):
        bits = _bits_or_nan(x)
        if column.kind == "split8":
            bits = bits + 0x80
        stored[0].copy_(((bits + 0x8000) >> 16).to(torch.int16).view(torch.bfloat16))
        stored[1].copy_((bits if column.kind == "split16" else bits >> 8).to(stored[1].dtype))
    elif column.kind.endswith("signed8"):
        _encode_groups(x, column.kind == "signed8", stored[0], stored[1], noise)
    else:
        stored[0].copy_(x)


def _bits_or_nan(x: Tensor) -> Tensor:
    return torch.where(x == x, x.view(torch.int32), 0x7FC00000)


def _stochastic(x: Tensor, dtype: torch.dtype, noise: Tensor | None) -> Tensor:
    if noise is None:
        return x.to(dtype)
    if dtype == torch.bfloat16:
        return ((_bits_or_nan(x) + (noise >> 16).to(torch.int32)) >> 16).to(torch.int16).view(torch.bfloat16)
    steps = torch.floor(x.abs() * 2.0**24 + (noise >> 8).float() * 2.0**-24)  # below 2⁻¹⁴ steps are equal
    cut = ((_bits_or_nan(x) + (noise >> 19).to(torch.int32)) & -0x2000).view(torch.float32)
    return torch.where(x.abs() < 2.0**-14, torch.where(x < 0, -steps, steps) * 2.0**-24, cut).to(dtype)


def _spread(scale: Tensor, like: Tensor) -> Tensor:
    return scale.reshape(-1, 1).expand(-1, GROUP).reshape(like.shape)


def _encode_groups(x: Tensor, signed: bool, code: Tensor, scale: Tensor, noise: Tensor | None) -> None:
    size = x.abs()
    top = size.reshape(-1, GROUP).amax(1)
    if signed:
        root = torch.copysign(size.sqrt(), x)
        found = top.sqrt() * (1.00001 / 127)
    else:
        root = size.rsqrt().rsqrt()
        found = top.rsqrt().rsqrt() * (1.00001 / 255)
    inverse = torch.where(found > 0, 1.0 / found, 0.0)
    exact = root * _spread(inverse, root)
    bits = _NEAREST if noise is None else noise
    exact = exact + ((bits >> 9) * 2.0**-23 - 0.5)
    rounded = exact.nan_to_num(0.0, 0.0, 0.0).round()  # half to even, as adding 1.5 · 2²³ does
    if signed:
        code.copy_(rounded.to(torch.int8))
    else:
        code.copy_(rounded.clamp_min(1).to(torch.uint8).view(torch.int8))
    scale.copy_(found.view(scale.shape))
