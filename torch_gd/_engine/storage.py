"""How the columns of a parameter are stored: what `precision` asks for, and what its dtype and shape allow."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .encoding import Column, Storage, has_groups
from .layout import is_plain
from .parts import Part
from .precision import KEY, Precision, as_precision
from .routes import name_of
from .shards import first_element, is_dtensor, shards_along
from .spec import Algorithm, Group, UpdateSpec

NUMBERS = "param_numbers"  # of a group that is a part of an optimizer's: the places of its parameters in the whole
HALF = (torch.bfloat16, torch.float16)


def precision_of(group: Group) -> Precision | None:
    """Return what a group says of precision."""
    return as_precision(group.get(KEY))


def by_storage(algorithm: Algorithm, group: Group, spec: UpdateSpec, part: Part) -> list[Part]:
    """Return a part divided by how its parameters are stored.

    Raises:
        RuntimeError: a parameter is none that the group's precision is for.
    """
    precision = precision_of(group)
    if precision is None:
        return [part]
    names: dict[int, str] = {}
    if precision.keep:
        names = {id(p): name for p, name in zip(group["params"], group["param_names"])}
    found = []
    for p, g, whole in zip(part.params, part.grads, part.holders):
        kept = _why_kept(precision, names.get(id(whole), ""), whole)
        storage, refusal = _storage_of(precision, p, whole, kept)
        if storage is not None and not (is_plain(p) and is_plain(g)):
            kind = type(p if not is_plain(p) else g).__name__ if not g.is_sparse else "sparse gradient"
            refusal = f"cannot be stored by a precision ({kind}); give it a group of its own with precision=None"
        if refusal:
            raise RuntimeError(f"{algorithm.name}: {name_of(group, part.group, p)} {refusal}")
        found.append(None if storage and storage.weight == "plain" and not spec.state_names else storage)
    return [replace(some, storage=storage) for storage, some in part.divided_by(found)]


def _storage_of(precision: Precision, p: Tensor, whole: Tensor, why: str) -> tuple[Storage | None, str]:
    """Return how a parameter is stored, and why it cannot be.

    Args:
        precision: what its group says.
        p: the parameter, or the shard of it that this rank holds.
        whole: the parameter.
        why: why it keeps full precision; empty if it need not.
    """
    asked = precision.weights
    if p.dtype not in HALF and p.dtype != torch.float32:
        return None, ""
    if asked is not None and p.dtype == torch.float32 and not why:
        bits = "rounds it to nearest" if asked == "stochastic" else "keeps the low bits"
        hint = f"call optimizer.lower_weights(), which {bits}"
        return None, f"is float32, but weights={asked!r} is for half precision; {hint}"
    if asked in ("bf16+16", "bf16+8") and p.dtype == torch.float16:
        return None, f"is float16, but weights={asked!r} is for bfloat16; use weights='stochastic'"
    if asked is None and precision.states is None:
        return None, ""
    states = "float32" if why else precision.states or "float32"
    if states == "8bit" and (why := why_no_groups(whole)):
        states = "float32"
    weight = "plain"
    if asked is not None and p.dtype in HALF:
        weight = {"bf16+8": "split8", "bf16+16": "split16"}.get(asked, "stochastic")
        if why and p.dtype == torch.bfloat16:
            weight = "split16"
    return Storage(weight, states, why), ""


def _why_kept(precision: Precision, name: str, whole: Tensor) -> str:
    if whole.numel() < precision.min_elements:
        return f"full precision: fewer elements than min_elements={precision.min_elements}"
    return f"full precision: {name!r} is among keep" if precision.keeps(name) else ""


def why_no_groups(whole: Tensor) -> str:
    """Return why a parameter cannot have a scale for each 32 elements, the same on all ranks; empty if it can."""
    if not has_groups(whole.shape):
        return "full precision: its rows do not divide into groups of 32"
    if not whole.is_contiguous():
        return "full precision: not contiguous"
    if is_dtensor(whole):
        cut = shards_along(whole)
        if not set(cut) <= ({0} if whole.dim() != 2 else {0, 1}):
            return "full precision: cut within the groups of 32"
        last = cut.get(whole.dim() - 1, 1) if whole.dim() <= 2 else 1
        if last > 1 and whole.shape[-1] % (32 * last):
            return "full precision: cut unevenly into groups of 32"
    return ""


@lru_cache(maxsize=256)
def stored_spec(spec: UpdateSpec, storage: Storage | None) -> UpdateSpec:
    """Return a spec whose states are those that are stored; each then counts steps, as noise depends on them."""
    if storage is None:
        return spec
    columns = [Column("", storage.weight), *(_column(spec, name, storage.states) for name in spec.state_names)]
    names = tuple(key for column in columns for key in column.stored)
    return replace(spec, state_names=names, columns=tuple(columns), counts_steps=True)


def _column(spec: UpdateSpec, name: str, states: str) -> Column:
    positive = name in spec.non_negative
    if states == "8bit":
        return Column(name, "unsigned8" if positive else "signed8", torch.int8)
    if states == "bf16":
        return Column(name, "stochastic" if positive else "plain", torch.bfloat16)
    return Column(name, "plain", torch.float32)


def check_precision(algorithm: Algorithm, group: Group, index: int, spec: UpdateSpec) -> None:
    """Raise `ValueError` or `TypeError` for a precision that a group cannot have."""
    precision = precision_of(group)
    if precision is None:
        return
    if precision.states in ("bf16", "8bit") and spec.rounds_badly:
        raise ValueError(f"{algorithm.name}: states={precision.states!r} of group {index}: {spec.rounds_badly}")
    if group["differentiable"]:
        raise ValueError(f"{algorithm.name}: group {index} cannot be differentiable=True with a precision")
    if precision.keep and "param_names" not in group:
        raise TypeError(
            f"{algorithm.name}: keep={precision.keep} of group {index} names parameters, of which it knows no names; "
            "pass model.named_parameters()"
        )


class Noise(NamedTuple):
    """What the noise of each tensor depends on besides the step.

    Args:
        keys: a number for each tensor, of the seed and of its place in the optimizer.
        firsts: the number of its first element, among those of the tensor whose shard it is.
    """

    keys: list[int]
    firsts: list[int]


def noise_of(groups: Sequence[Group], holders: Sequence[Tensor], group_of: Sequence[int]) -> Noise:
    """Return what the noise of some parameters depends on."""
    number = {id(p): i for i, p in enumerate(p for group in groups for p in group["params"])}
    for group in groups:
        if NUMBERS in group:
            number |= dict(zip(map(id, group["params"]), group[NUMBERS]))
    precisions = [precision_of(group) for group in groups]
    seeds = [0 if precisions[i] is None else precisions[i].seed for i in group_of]  # type: ignore[union-attr]  # not None
    keys = [_key(seed, number[id(p)]) for seed, p in zip(seeds, holders)]
    return Noise(keys, [first_element(p) if is_dtensor(p) else 0 for p in holders])


def _key(seed: int, number: int) -> int:
    """Return 32 bits that differ for each seed and number (Steele, Lea & Flood 2014)."""
    z = (seed * 0xD1342543DE82EF95 + number * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return (z ^ (z >> 31)) >> 32
