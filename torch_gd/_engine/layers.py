"""Layer-wise steps: the norms of whole tensors, on torch's operators and over the ranks that hold parts of them."""

from collections.abc import Generator, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from . import backend
from .batch import Batch
from .clip import StepInputs
from .layout import moved_to
from .ranks import ProcessGroups, all_reduce, split_by_groups
from .shards import local_tensors
from .spec import Group, LayerStep

LARGE = 1 << 16  # elements from which on torch's norm on the CPU loses digits: 8e-5 of it for 4,000,000 in float32


def norms_of(tensors: Sequence[Tensor]) -> Tensor:
    """Return the norm of each tensor, float64 and 1-d."""
    wide = torch.float32 if tensors[0].dtype in (torch.float16, torch.bfloat16) else None
    if tensors[0].is_cpu and max(map(Tensor.numel, tensors)) > LARGE:
        return torch.stack([_norm(t if wide is None else t.to(wide)) for t in tensors]).double()
    return torch.stack(torch._foreach_norm(list(tensors), 2.0, dtype=wide)).double()


def _norm(tensor: Tensor) -> Tensor:
    row = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).reshape(-1)
    return torch.dot(row, row).sqrt()  # also the only one of the two that several threads share


def in_sums(step: LayerStep, params: Sequence[Tensor]) -> Generator[Tensor, Tensor, Any]:
    """Turn a step that yields tensors and is sent norms into one that yields sums of squares and is sent sums."""
    if torch.is_grad_enabled():  # autograd goes back through the norms, and the parameters are changed in place
        params = [p.clone() for p in params]
    sums = yield norms_of([*params, *next(step)]).view(2, -1).square()
    p_norms, x_norms = sums.sqrt()
    return finish(step, (p_norms, x_norms))


def finish(step: Generator[Any, Any, Any], answer: Any) -> Any:
    """Send what a step waits for, and return what it returns."""
    try:
        step.send(answer)
    except StopIteration as done:
        return done.value
    raise RuntimeError("a layer-wise torch_step() or fused_cpu must yield once")


def alone(step: Generator[Tensor, Tensor, Any]) -> Any:
    """Carry out a step whose tensors are whole."""
    return finish(step, next(step))


def at_once(step: LayerStep, params: Sequence[Tensor]) -> Any:
    """Carry out a step whose tensors are whole, without the detour over sums of squares."""
    if torch.is_grad_enabled():  # as in `in_sums`
        params = [p.clone() for p in params]
    return finish(step, norms_of([*params, *next(step)]).view(2, -1).unbind())


class SplitTensors:
    """Layer-wise steps of tensors that are split over ranks: an all-reduce adds up their sums of squares.

    Args:
        params: all parameters of an optimizer, with or without a gradient: one that has none here may have one on
            another rank, which needs the norm of the whole.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self._by_groups = {over: [params[i] for i in places] for over, places in split_by_groups(params).items()}
        self._columns: dict[int, Tensor] = {}  # by batch, where its tensors are among those of their groups

    def __bool__(self) -> bool:
        return bool(self._by_groups)

    def run(self, batches: Sequence[Batch], groups: list[Group], inputs: Iterable[StepInputs | None]) -> None:
        """Carry out a step, with one sum over ranks for each set of process groups.

        Every rank must ask for all of them, also one whose step is left out, or that has nothing to update.
        """
        halves: list[tuple[Batch, Any, Tensor]] = []
        for batch, left in zip(batches, inputs):
            if left is not None and batch.spread_over:
                step = batch.layer_step(groups, left)
                halves.append((batch, step, next(step)))
            elif left is not None:
                batch.run(groups, left)
        whole = {
            over: self._added_up(over, [(batch, sums) for batch, _, sums in halves if batch.spread_over == over])
            for over in self._by_groups
        }
        for batch, step, _ in halves:
            sums = whole[batch.spread_over]
            finish(step, moved_to(sums.index_select(1, self._columns_of(batch, sums.device)), batch.device))

    def _added_up(self, over: ProcessGroups, found: list[tuple[Batch, Tensor]]) -> Tensor:
        """Return the sums of all tensors that are spread over the ranks of some process groups."""
        owners = self._by_groups[over]
        shards = local_tensors(owners)
        device = shards[0].device
        sums = torch.zeros(2, len(owners), dtype=torch.float64, device=device)
        updated = {id(p) for batch, _ in found for p in batch.holders}
        if idle := [i for i, p in enumerate(owners) if id(p) not in updated]:  # whose update here is zero
            sums[0, idle] = torch.cat([norms_of([shards[i]]).to(device) for i in idle]).square()
        for batch, mine in found:
            sums.index_copy_(1, self._columns_of(batch, device), moved_to(mine, device))
        all_reduce(sums, dist.ReduceOp.SUM, over)
        return sums

    def _columns_of(self, batch: Batch, device: torch.device) -> Tensor:
        if id(batch) not in self._columns:
            places = {id(p): i for i, p in enumerate(self._by_groups[batch.spread_over])}
            columns = torch.tensor([places[id(p)] for p in batch.holders], device="cpu")
            self._columns[id(batch)] = backend.to_device(columns, device)
        return self._columns[id(batch)]
