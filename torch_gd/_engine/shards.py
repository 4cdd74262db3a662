"""Shards: what one rank holds of parameters that torch.distributed spreads over many (`DTensor`).

An update goes element by element, so each rank updates the shard that it holds, a plain tensor like any other. The
DTensor stays the owner of gradient and states: they are fetched from it, and what is put into `optimizer.state` are
DTensors placed as it is, so that checkpoints need nothing from us.
"""

import sys
from collections.abc import Iterable
from operator import attrgetter, is_
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .layout import is_plain
from .spec import State

# Neither is public: the shard itself, and mesh with placements. A class without them is left to torch.
_LOCAL, _SPEC = attrgetter("_local_tensor"), attrgetter("_spec")


def dtensor_class() -> Any:
    """Return `DTensor`; None while nothing has imported it, or if it is not built as we know it."""
    kind = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    return kind if {"_local_tensor", "_spec"} <= set(getattr(kind, "__slots__", ())) else None


def is_dtensor(tensor: object) -> bool:
    """Return whether a tensor is a DTensor."""
    kind = dtensor_class()
    return kind is not None and isinstance(tensor, kind)


def local_tensors(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return this rank's shard of each DTensor, and other tensors as they are."""
    tensors, kind = list(tensors), dtensor_class()
    if not has_dtensors(tensors):
        return tensors
    return [_LOCAL(tensor) if type(tensor) is kind else tensor for tensor in tensors]


def has_dtensors(tensors: Iterable[Tensor]) -> bool:
    """Return whether any tensor is a DTensor."""
    kind = dtensor_class()
    return kind is not None and kind in set(map(type, tensors))


def placed_alike(a: Tensor, b: Tensor) -> bool:
    """Return whether both are plain, or both DTensors of which each rank holds the same elements."""
    return is_dtensor(a) == is_dtensor(b) and (not is_dtensor(a) or _alike(_SPEC(a), _SPEC(b)))


def whole_on_every_rank(tensor: Any) -> Tensor:
    """Return a DTensor's elements, on all ranks; another tensor as it is."""
    return tensor.full_tensor() if is_dtensor(tensor) else tensor  # type: ignore[no-any-return]  # of DTensor's


def replicated(tensor: Tensor, like: list[Any]) -> Any:
    """Return a tensor that all ranks have as a DTensor, if others are DTensors of one mesh; else as it is."""
    meshes = meshes_of(like)
    if len(set(meshes)) != 1 or not all(map(is_dtensor, like)):
        return tensor
    whole = [sys.modules["torch.distributed.tensor"].Replicate()] * meshes[0].ndim
    return type(like[0]).from_local(tensor, meshes[0], whole, run_check=False)


def has_partial_sums(tensor: Tensor) -> bool:
    """Return whether a DTensor is a sum of which each rank has a part."""
    return is_dtensor(tensor) and any(place.is_partial() for place in _SPEC(tensor).placements)


@torch.no_grad()
def without_partial_sums(tensors: list[Any]) -> list[Any]:
    """Return tensors with the sums added up of which each rank has a part, all at once; others as they are."""
    places = {placements for _, placements in filter(None, placed(tensors))}
    if not any(place.is_partial() for placements in places for place in placements):  # almost always
        return tensors
    replicate = sys.modules["torch.distributed.tensor"].Replicate()
    found = list(tensors)
    for i in filter(lambda i: has_partial_sums(tensors[i]), range(len(tensors))):
        whole = [replicate if place.is_partial() else place for place in _SPEC(tensors[i]).placements]
        found[i] = tensors[i].redistribute(placements=whole, async_op=True)
    return found


def placed(tensors: Iterable[Tensor]) -> list[tuple[Any, tuple[Any, ...]] | None]:
    """Return the mesh and the placements of each DTensor, None for other tensors."""
    kind = dtensor_class()
    specs = (_SPEC(tensor) if kind is not None and isinstance(tensor, kind) else None for tensor in tensors)
    return [None if spec is None else (spec.mesh, spec.placements) for spec in specs]


def meshes_of(tensors: Iterable[Tensor]) -> list[Any]:
    """Return the different meshes that DTensors are on, in their order; equal ones that were made twice are two."""
    return list({id(place[0]): place[0] for place in placed(tensors) if place is not None}.values())


def updates_locally(p: Tensor, g: Tensor, state: State) -> bool:
    """Return whether each rank can update its own shard of a parameter, after redistributing the gradient if need be.

    A parameter placed as partial sums, and states placed otherwise than their parameter, are left to torch.
    """
    kind = dtensor_class()
    return (
        type(p) is kind is type(g)
        and p.shape == g.shape
        and _SPEC(p).mesh == _SPEC(g).mesh
        and not any(place.is_partial() for place in _SPEC(p).placements)
        and all(is_plain(_LOCAL(t)) and _alike(_SPEC(t), _SPEC(p)) for t in (p, *state.values()) if type(t) is kind)
    )


def why_not_together(p: Tensor, g: Tensor) -> str:
    """Return why a gradient cannot be its parameter's where one of them is a DTensor; empty if it can."""
    if is_dtensor(p) != is_dtensor(g):
        mixed = "got mixed torch.Tensor and DTensor, need to convert all torch.Tensor to DTensor"
        return f"is a {type(p).__name__}, and its gradient a {type(g).__name__}: {mixed}"
    if is_dtensor(p) and _SPEC(p).mesh != _SPEC(g).mesh:
        return f"is on {_SPEC(p).mesh}, and its gradient on {_SPEC(g).mesh}; they must be on one mesh"
    return ""


def shard_or_empty(p: Tensor, g: Tensor) -> Tensor:
    """Return a gradient's shard if it is placed as its parameter, else an uninitialized tensor to receive the shard."""
    local = _LOCAL(g)
    if _alike(_SPEC(g), _SPEC(p)) and is_plain(local):
        return local  # type: ignore[no-any-return]
    return torch.empty_like(_LOCAL(p), dtype=g.dtype)


class Move(NamedTuple):
    """A gradient that is placed otherwise than its parameter, with the tensor that receives its shard."""

    owner: Tensor
    grad: Any
    shard: Tensor


class Shards:
    """The DTensors whose shards a batch updates.

    Args:
        owners: the DTensors.

    Attributes:
        moves: the gradients that `place` must fill in before they are read.
    """

    def __init__(self, owners: list[Tensor]) -> None:
        self.owners = owners
        self.moves: list[Move] = []
        self._locals, self._specs = list(map(_LOCAL, owners)), list(map(_SPEC, owners))

    def grads(self) -> list[Any]:
        """Return the shard of each gradient of this step; a list of None if the plan does not fit any more.

        Those in `moves` are still uninitialized: `place` fills them in.

        Nothing is communicated here: another rank may be asking for a new plan, and would not answer.
        """
        self.moves = []
        needs_new_plan: list[Any] = [None] * len(self.owners)
        owners: list[Any] = self.owners
        # Replaced, as FSDP2 does when a model is loaded?
        if not all(map(is_, [p._local_tensor for p in owners], self._locals)):
            return needs_new_plan
        with torch._C.DisableTorchFunctionSubclass():  # else reading `.grad` of a subclass takes three times as long
            grads = [p.grad for p in owners]
        try:
            specs, shards = [g._spec for g in grads], [g._local_tensor for g in grads]
        except AttributeError:  # none, or no DTensor
            return needs_new_plan
        if specs == self._specs and set(map(type, shards)) == {Tensor}:
            self._specs = specs  # the very ones are found equal sooner
            return shards
        for i, (p, g) in enumerate(zip(self.owners, grads)):
            if p.shape != g.shape or specs[i].mesh != _SPEC(p).mesh:
                return needs_new_plan
            if (shard := shard_or_empty(p, g)) is shards[i]:
                self._specs[i] = specs[i]
            else:
                self.moves.append(Move(p, g, shard))
                shards[i] = shard
        return shards

    def mark_changed(self) -> None:
        """Advance the version counters of the DTensors, since updating a shard does not advance its owner's."""
        torch.autograd.graph.increment_version(self.owners)


@torch.no_grad()
def place(moves: list[Move]) -> None:
    """Redistribute gradients as their parameters are placed, all at once; every rank must make the same moves."""
    arriving = [move.grad.redistribute(placements=_SPEC(move.owner).placements, async_op=True) for move in moves]
    for move, grad in zip(moves, arriving):
        move.shard.copy_(_LOCAL(grad))  # waits, if it is on its way


def as_dtensor(local: Tensor, owner: Any, shape: torch.Size | None = None) -> Any:
    """Return a shard as a DTensor placed as another one.

    Shape and stride of the whole are the other's, since they cannot be told from a shard where shards are uneven; or
    those of a contiguous tensor of the shape that is given.
    """
    whole = owner if shape is None else torch.empty(shape, device="meta")
    return type(owner).from_local(
        local, owner.device_mesh, owner.placements, run_check=False, shape=whole.shape, stride=whole.stride()
    )


def shards_along(tensor: Any) -> dict[int, int]:
    """Return into how many shards each dimension of a DTensor is cut."""
    cut: dict[int, int] = {}
    for place, size in zip(tensor.placements, tensor.device_mesh.shape):
        if (dim := getattr(place, "dim", None)) is not None:
            cut[dim] = cut.get(dim, 1) * size
    return cut


def first_element(tensor: Any) -> int:
    """Return the number of this rank's first element among those of a DTensor."""
    offsets, sizes = [0] * tensor.dim(), list(tensor.shape)
    mesh = tensor.device_mesh
    cuts = list(zip(tensor.placements, mesh.shape, mesh.get_coordinate() or [0] * mesh.ndim))
    cuts.sort(key=lambda cut: hasattr(cut[0], "split_factor"))  # FSDP2 cuts what tensor parallel has cut before
    for place, ranks, rank in cuts:
        if (dim := getattr(place, "dim", None)) is not None:
            each = -(-sizes[dim] // ranks)
            start = min(rank * each, sizes[dim])
            offsets[dim] += start
            sizes[dim] = min(each, sizes[dim] - start)
    strides = torch.empty(tensor.shape, device="meta").stride()
    return sum(offset * stride for offset, stride in zip(offsets, strides))


def _alike(a: Any, b: Any) -> bool:
    same_order = getattr(a, "shard_order", None) == getattr(b, "shard_order", None)
    return a is b or (a.placements == b.placements and a.mesh == b.mesh and same_order)
