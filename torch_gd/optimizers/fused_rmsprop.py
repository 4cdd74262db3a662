"""RMSprop on the CPU by torch's fused Adam, since torch has no fused kernel for RMSprop itself."""

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate

import torch
from torch import Tensor

from .._engine.spec import FusedTensors, Group

SCRATCH = 1 << 17  # elements a thread: in float32 half a megabyte, which stays in its cache
# A step count so large that Adam's bias correction is 1 for every alpha below 1, and that still fits an int64.
STEP = torch.tensor(2.0**62, dtype=torch.float32, device="cpu")


def is_adam(group: Group) -> bool:
    """Return whether RMSprop under the options of a group is a case of Adam."""
    return not group["centered"] and isinstance(group["alpha"], (int, float)) and 0 <= group["alpha"] < 1


def fused_cpu(group: Group, tensors: FusedTensors) -> bool:
    r"""Update by `torch._fused_adam_` with :math:`\beta_1 = 0`; return whether autograd has seen the parameters change.

    Adam's first moment is then the gradient. It is written to memory that is used again and again, so that it stays in
    the cache and gradients stay as they are.
    """
    size = min(tensors.numel, SCRATCH * torch.get_num_threads())
    scratch = tensors.params[0].new_zeros(size)
    update = _with_momentum if group["momentum"] > 0 else _plain
    columns = [tensors.params, tensors.grads, *tensors.states]
    sizes: list[int] = []
    for i, piece in enumerate([columns] if tensors.numel == size else in_pieces(columns, size)):
        if i > 0:
            scratch.zero_()  # an infinite gradient would have left NaN there
        before, sizes = sizes, list(map(Tensor.numel, piece[0]))
        if sizes != before:
            firsts = list(scratch[: sum(sizes)].split_with_sizes(sizes)) if sizes != [size] else [scratch]
        update(group, firsts, *piece)
    return bool(group["momentum"] > 0)


def _plain(
    group: Group, firsts: list[Tensor], params: list[Tensor], grads: list[Tensor], squares: list[Tensor]
) -> None:
    _adam(group, firsts, params, grads, squares, float(group["lr"]), group["weight_decay"], bool(group["maximize"]))


def _with_momentum(
    group: Group,
    firsts: list[Tensor],
    params: list[Tensor],
    grads: list[Tensor],
    squares: list[Tensor],
    buffers: list[Tensor],
) -> None:
    """Let Adam update the momentum buffers, and then subtract lr times the buffers from the parameters."""
    maximize = bool(group["maximize"])
    if group["weight_decay"] != 0:  # of the parameters, which the kernel does not see
        signed = torch._foreach_neg(grads) if maximize else grads
        grads, maximize = list(torch._foreach_add(signed, params, alpha=group["weight_decay"])), False
    torch._foreach_mul_(buffers, group["momentum"])
    _adam(group, firsts, buffers, grads, squares, -1.0, 0.0, maximize)
    torch._foreach_add_(params, buffers, alpha=-float(group["lr"]))


def _adam(
    group: Group,
    firsts: list[Tensor],
    params: list[Tensor],
    grads: list[Tensor],
    squares: list[Tensor],
    lr: float,
    weight_decay: float,
    maximize: bool,
) -> None:
    torch._fused_adam_(
        params,
        grads,
        firsts,
        squares,
        [],
        [STEP] * len(params),
        lr=lr,
        beta1=0.0,
        beta2=float(group["alpha"]),
        weight_decay=weight_decay,
        eps=group["eps"],
        amsgrad=False,
        maximize=maximize,
    )


def in_pieces(columns: list[list[Tensor]], size: int) -> Iterator[list[list[Tensor]]]:
    """Yield the columns in pieces of at most `size` elements each; cut tensors that are larger than that."""
    ends = list(accumulate(map(Tensor.numel, columns[0])))
    start = done = 0
    while start < len(ends):
        stop = bisect_right(ends, done + size, start)
        if stop > start:
            yield [column[start:stop] for column in columns]
        else:  # larger than a piece
            stop = start + 1
            cuts = [torch.split(as_row(column[start]), size) for column in columns]
            yield from ([[part] for part in parts] for parts in zip(*cuts))
        start, done = stop, ends[stop - 1]


def as_row(tensor: Tensor) -> Tensor:
    """Return the memory of a dense tensor in one row."""
    return tensor.detach().as_strided((tensor.numel(),), (1,))
