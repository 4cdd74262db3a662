"""Remainders: the bits of a weight that the optimizer keeps, and how it is noticed that they are another weight's.

A remainder is saved with a sum over the bits of both. What is loaded keeps that sum until its first step: if weight and
remainder do not come to it by then, the weight has been changed by someone else, and the remainder is made zero.
"""

import torch
from torch import Tensor

from .encoding import Column, decode
from .shard_states import LocalState
from .spec import State

REMAINDER = "remainder"
CHECKSUM = "remainder_checksum"  # of what is saved, and of what is loaded until its first step
_ODD = 0x9E3779B97F4A7C15 - 2**64
_CHUNK = 1 << 22  # elements at a time, since a sum takes 8 bytes for each several times over


def remainder_of(p: Tensor, state: State) -> Tensor | None:
    """Return a parameter's remainder; None if there is none that can be its."""
    found = state.get(REMAINDER)
    if p.dtype != torch.bfloat16 or not isinstance(found, Tensor) or found.dtype not in (torch.int8, torch.int16):
        return None
    return found if found.shape == p.shape and found.device == p.device else None


def checksum(p: Tensor, remainder: Tensor) -> Tensor:
    """Return a sum over the bits of a weight and its remainder, each element times a number of its place; 0-d, int64.

    Integers wrap, so it is the same in whatever order they are added up. It is 0 where all are zeros.
    """
    weights, rests = p.detach().view(torch.int16).reshape(-1), remainder.reshape(-1)
    total = torch.zeros((), dtype=torch.int64, device=p.device)
    for start in range(0, len(rests), _CHUNK):
        words = (weights[start : start + _CHUNK].long() << 16) + rests[start : start + _CHUNK]
        places = torch.arange(start + 1, start + 1 + len(words), device=p.device) * _ODD
        total += (words * ((places ^ (places >> 29)) | 1)).sum()
    return total


def saved_checksum(p: Tensor, state: State) -> Tensor | None:
    """Return what is to be saved beside a remainder; None if there is none.

    DTensors have 0, which fits every weight: theirs would have to be added up over ranks, of which only some may save.
    """
    if isinstance(saved := state.get(CHECKSUM), Tensor):
        return saved  # loaded, and not used yet: the weight may still be to come
    remainder = remainder_of(p, state)
    if remainder is None:
        return None
    if isinstance(state, LocalState):
        return torch.zeros((), dtype=torch.int64, device=p.device)
    return checksum(p, remainder)


def fits_weight(p: Tensor, remainder: Tensor, state: State) -> Tensor | None:
    """Return whether a loaded remainder is its weight's, 0-d and on the device; None if that is not in question."""
    saved = state.get(CHECKSUM)
    if isinstance(state, LocalState) or not isinstance(saved, Tensor):
        return None
    return (saved == 0) | (saved == checksum(p, remainder))


def settle(p: Tensor, state: State) -> None:
    """Make a remainder zero that was loaded and is not its weight's. The host does not wait for the answer."""
    if CHECKSUM not in state:
        return
    if (remainder := remainder_of(p, state)) is not None and (fits := fits_weight(p, remainder, state)) is not None:
        remainder.mul_(fits)
    del state[CHECKSUM]


def float32_weight(p: Tensor, state: State) -> Tensor:
    """Return a weight with its remainder, as a float32 tensor of its own."""
    if (remainder := remainder_of(p, state)) is None:
        return p.detach().to(torch.float32, copy=True)
    if (fits := fits_weight(p, remainder, state)) is not None:
        remainder = remainder * fits
    kind = "split16" if remainder.dtype == torch.int16 else "split8"
    return decode(Column("", kind), [p.detach(), remainder])
