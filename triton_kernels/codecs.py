"""Codecs: how a column of the update lies in memory. They know neither algorithms nor tensors, only some elements.

A codec reads the float32 that the update computes with from one or two stored columns, and writes it back.

| codec | stores | which is |
|---|---|---|
| `plain` | one column of a dtype | the number, rounded to nearest |
| `SPLIT16` | bfloat16 and 16 bits | a float32, bit for bit |
| `SPLIT8` | bfloat16 and 8 bits | a float32 of 16 bits of significand, rounded to nearest |
| `stochastic` | bfloat16 or float16 | the number, rounded up with the probability of the distance |
| `SIGNED8` | 8 bits, a float32 scale for each 32 | ±(code · scale)², the code rounded up or down by the noise |
| `UNSIGNED8` | likewise | (code · scale)⁴, likewise, and never to zero but in a group of zeros |

Zero bytes are zero in each, so that states begin as zeros. A NaN stays one, and makes its whole group NaN.

Noise is 32 bits for each element, a function of a key, the step and the element's number alone: a Weyl sequence, whose
multiples of the golden ratio are spread evenly over elements, and over the steps of each element.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl

from .table import TRITON_DTYPES

GROUP = tl.constexpr(32)  # elements that share a scale


@triton.jit
def pointer_to(address, dtype: tl.constexpr, each: tl.constexpr):
    """Return an address as a pointer, aligned so that one access may take `each` elements."""
    # The hint must sit on the pointer: on the integer before the cast it is lost.
    return tl.multiple_of(address.to(tl.pointer_type(dtype)), each * dtype.primitive_bitwidth // 8)


_INTERPRETED = tl.constexpr(not isinstance(pointer_to, triton.JITFunction))


@triton.jit
def stored(x, dtype: tl.constexpr):
    """Return `x` rounded once, to nearest even, to the dtype that it is stored in."""
    # The interpreter truncates float32 to bfloat16 where a GPU rounds to nearest, so interpreted kernels round by hand.
    if _INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.float32).to(tl.int32, bitcast=True)
        nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return tl.where(x == x, nearest, 0x7FC0).to(tl.int16).to(tl.bfloat16, bitcast=True)
    else:
        return x.to(dtype)


@triton.jit
def noise_of(place, key, first, step):
    """Return 32 bits of noise for each element of a place, in a tensor with this key that begins at element `first`."""
    turn = key + step * 0x6C8E9CF5 + first * 0x9E3779B1
    return place[0].to(tl.uint32) * 0x9E3779B1 + turn.to(tl.uint32)


@triton.jit
def _bits(x):
    return x.to(tl.int32, bitcast=True)


@triton.jit
def _float(bits):
    return bits.to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _bits_or_nan(x):
    """Return the bits, those of NaN such that adding to them leaves a NaN."""
    return tl.where(x == x, _bits(x), 0x7FC00000)


@triton.jit
def _as_bfloat16(word):
    return word.to(tl.int16).to(tl.bfloat16, bitcast=True)


# decode(pointers, place, option) returns what lies there; encode(x, pointers, place, noise, option, each) stores x.
# pointers: one for each stored column. place: (offsets, mask or None, first of them, elements of the tensor).
# each: elements that lie side by side in a thread.


@triton.jit
def decode_plain(pointers, place, option: tl.constexpr):
    return tl.load(pointers[0] + place[0], mask=place[1])


@triton.jit
def encode_plain(x, pointers, place, noise, option: tl.constexpr, each: tl.constexpr):
    tl.store(pointers[0] + place[0], stored(x, pointers[0].dtype.element_ty), mask=place[1])


@triton.jit
def encode_stochastic(x, pointers, place, noise, option: tl.constexpr, each: tl.constexpr):
    """Add random bits below the last one that is kept, and cut there."""
    bits = _bits_or_nan(x)
    if pointers[0].dtype.element_ty == tl.bfloat16:
        rounded = _as_bfloat16((bits + (noise >> 16).to(tl.int32)) >> 16)
    else:
        # Below 2⁻¹⁴ float16 has equal steps of 2⁻²⁴.
        steps = tl.floor(tl.abs(x) * 16777216.0 + (noise >> 8).to(tl.float32) * 5.9604644775390625e-08)
        small = tl.where(x < 0, -steps, steps) * 5.9604644775390625e-08
        cut = _float((bits + (noise >> 19).to(tl.int32)) & -0x2000)
        rounded = tl.where(tl.abs(x) < 6.103515625e-05, small, cut).to(tl.float16)
    tl.store(pointers[0] + place[0], rounded, mask=place[1])


@triton.jit
def decode_split(pointers, place, option: tl.constexpr):
    """Return the float32 of which bfloat16 is the upper half, rounded to nearest, and more bits are the rest."""
    word = tl.load(pointers[0] + place[0], mask=place[1]).to(tl.int16, bitcast=True).to(tl.int32) << 16
    rest = tl.load(pointers[1] + place[0], mask=place[1]).to(tl.int32)
    bits = word + (rest << (16 - option))
    # Where somebody has written zeros over the weight, a rest from before would borrow from the sign: a NaN.
    return _float(tl.where((bits ^ word) < 0, word, bits))


@triton.jit
def encode_split(x, pointers, place, noise, option: tl.constexpr, each: tl.constexpr):
    bits = _bits_or_nan(x)
    if option == 8:
        bits = bits + 0x80
    tl.store(pointers[0] + place[0], _as_bfloat16((bits + 0x8000) >> 16), mask=place[1])
    rest = bits >> (16 - option)
    tl.store(pointers[1] + place[0], rest.to(pointers[1].dtype.element_ty), mask=place[1])


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _top(rows):
    """Return the largest of each row, NaN if there is one."""
    if _INTERPRETED:  # whose own maximum alone is quick; among the bits, too, those of NaN are the largest
        return _float(tl.max(_bits(rows), 1))
    else:
        return tl.reduce(rows, 1, _larger)


@triton.jit
def _spread(x, SIZE: tl.constexpr):
    """Return a group's value for each of its elements."""
    return tl.reshape(tl.broadcast_to(x[:, None], (SIZE // GROUP, GROUP)), (SIZE,))


# 1.5 · 2²³: added to a float, it leaves the nearest integer in the low bits. Conversions run at an eighth of the rate.
_MAGIC = tl.constexpr(12582912.0)
_MAGIC_BITS = tl.constexpr(0x4B400000)


@triton.jit
def decode_groups(pointers, place, option: tl.constexpr):
    signed: tl.constexpr = option
    SIZE: tl.constexpr = place[0].shape[0]
    groups = place[2] // GROUP + tl.arange(0, SIZE // GROUP)
    if place[1] is None:
        scale = tl.load(pointers[1] + groups)
    else:
        scale = tl.load(pointers[1] + groups, mask=groups * GROUP < place[3])
    code = tl.load(pointers[0] + place[0], mask=place[1])
    if signed:
        code = code.to(tl.int32)
    else:
        code = code.to(tl.uint8, bitcast=True).to(tl.int32)
    root = (_float(code + _MAGIC_BITS) - _MAGIC) * _spread(scale, SIZE)
    if signed:
        return root * tl.abs(root)
    else:
        return (root * root) * (root * root)


@triton.jit
def encode_groups(x, pointers, place, noise, option: tl.constexpr, each: tl.constexpr):
    signed: tl.constexpr = option
    SIZE: tl.constexpr = x.shape[0]
    GROUPS: tl.constexpr = SIZE // GROUP
    LANES: tl.constexpr = GROUP // each
    size = tl.abs(x)
    if place[1] is not None:
        size = tl.where(place[1], size, 0.0)
    top = _top(tl.reshape(size, (GROUPS, GROUP)))
    # 1.00001 exceeds the error of the roots, so that no code goes above 127, or 255 if unsigned.
    if signed:
        root = _float(_bits(tl.sqrt(size)) | (_bits(x) & -0x80000000))
        scale = tl.sqrt(top) * (1.00001 / 127)
    else:
        root = tl.rsqrt(tl.rsqrt(size))
        scale = tl.rsqrt(tl.rsqrt(top)) * (1.00001 / 255)
    # One thread of a group stores its scale, where it is; an exchange between threads would cost more.
    lane = tl.arange(0, LANES)[None, :]
    group = (place[2] + tl.arange(0, GROUPS)[:, None] * GROUP + lane) // GROUP
    mask = (lane == 0) & (group * GROUP < place[3])
    tl.store(pointers[1] + group, tl.broadcast_to(scale[:, None], (GROUPS, LANES)), mask=mask)
    code = root * _spread(tl.where(scale > 0, 1.0 / scale, 0.0), SIZE)
    # With nearest rounding, momentum would stop decaying at code 9 while its group's scale stays the same.
    code = code + (_float((noise >> 9).to(tl.int32) + 0x3F800000) - 1.5)
    code = _bits(code + _MAGIC)
    if not signed:
        code = tl.maximum(code, _MAGIC_BITS + 1)  # never 0, by whose root a step would be divided
    tl.store(pointers[0] + place[0], code.to(tl.int8), mask=place[1])


@dataclass(frozen=True)
class Codec:
    """What a column of the update is in memory.

    Args:
        decode: a `@triton.jit` function that reads it.
        encode: one that writes it.
        dtype: of the stored column that has an entry for each element.
        rest: dtype of the column that is stored beside it, or None.
        option: a compile-time number for both functions.
        group: elements that share an entry of the second column; 0 where each has its own.
        exact: whether it keeps more than half precision, so that division and square root must be correctly rounded.
        noisy: whether it rounds by noise.

    Example:
        >>> from torch_gd.triton_kernels import codecs
        >>> codecs.SPLIT8.dtype, codecs.SPLIT8.rest
        (triton.language.bfloat16, triton.language.int8)
    """

    decode: Any
    encode: Any
    dtype: Any
    rest: Any = None
    option: int = 0
    group: int = 0
    exact: bool = False
    noisy: bool = False

    @property
    def key(self) -> str:
        """Return what a kernel that is compiled with it depends on."""
        columns = self.dtype, self.rest, self.option, self.group, self.exact, self.noisy
        return f"{self.decode.cache_key}{self.encode.cache_key}{columns}"

    @property
    def by_element(self) -> tuple[Any, ...]:
        """Return the dtypes of the stored columns that have an entry for each element."""
        return (self.dtype,) if self.rest is None or self.group else (self.dtype, self.rest)


class Codecs:
    """The codecs of parameter, gradient and each state: one compile-time constant.

    It is no tuple, which the compiler would take apart, and Triton 3.6 cannot hold tuples of such things.

    Args:
        codecs: the codecs.
    """

    def __init__(self, codecs: Iterable[Codec]) -> None:
        self._codecs = tuple(codecs)
        self.count = len(self._codecs)
        self.noisy = any(codec.noisy for codec in self._codecs)

    @property
    def cache_key(self) -> str:
        """Return what a compiled kernel depends on; Triton's cache on disk would know the functions by their names."""
        return "".join(codec.key for codec in self._codecs)

    def __getitem__(self, i: int) -> Codec:
        return self._codecs[i]

    def __iter__(self) -> Iterator[Codec]:
        return iter(self._codecs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Codecs) and self._codecs == other._codecs

    def __hash__(self) -> int:
        return hash(self._codecs)


@cache
def plain(dtype: Any) -> Codec:
    """Return the codec that stores a number as it is."""
    return Codec(decode_plain, encode_plain, dtype, exact=dtype.primitive_bitwidth > 16)


@cache
def stochastic(dtype: Any) -> Codec:
    """Return the codec that rounds to a half precision by noise."""
    return Codec(decode_plain, encode_stochastic, dtype, noisy=True)


SPLIT16 = Codec(decode_split, encode_split, tl.bfloat16, tl.int16, option=16, exact=True)
SPLIT8 = Codec(decode_split, encode_split, tl.bfloat16, tl.int8, option=8)
SIGNED8 = Codec(decode_groups, encode_groups, tl.int8, tl.float32, option=True, group=GROUP.value, noisy=True)
UNSIGNED8 = Codec(decode_groups, encode_groups, tl.int8, tl.float32, option=False, group=GROUP.value, noisy=True)


def of_kind(kind: str, dtype: torch.dtype) -> Codec:
    """Return a codec by its name in `torch_gd._engine.encoding`, and the dtype of what it stores."""
    if kind == "plain":
        return plain(TRITON_DTYPES[dtype])
    if kind == "stochastic":
        return stochastic(TRITON_DTYPES[dtype])
    return {"split16": SPLIT16, "split8": SPLIT8, "signed8": SIGNED8, "unsigned8": UNSIGNED8}[kind]
