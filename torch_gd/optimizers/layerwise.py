"""What layer-wise optimizers share on torch's operators."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from .._engine.spec import Group


@contextmanager
def in_one_precision(grads: Sequence[Tensor], *written: Sequence[Tensor]) -> Iterator[list[list[Tensor]]]:
    """Give a `with` block lists of real tensors of one dtype, float32 or float64.

    The block must put new tensors into the lists and never write into a tensor, since autograd may need it. On leaving,
    what is in the lists is copied into the tensors to be `written`, and rounded there once.
    """
    columns = [[torch.view_as_real(t) if t.is_complex() else t for t in column] for column in (grads, *written)]
    wide = torch.float64 if any(t.dtype == torch.float64 for column in columns for t in column) else torch.float32
    apart = torch.is_grad_enabled()
    given = [[t.to(wide, copy=apart) for t in column] for column in columns]
    yield given
    for column, found in zip(columns[1:], given[1:]):
        for tensor, value in zip(column, found):
            tensor.copy_(value)


def plus(tensors: Sequence[Tensor], others: Sequence[Tensor], factor: float | Tensor) -> list[Tensor]:
    """Return tensors + factor · others."""
    return list(torch._foreach_add(list(tensors), torch._foreach_mul(list(others), factor)))


def ratio_or_one(group: Group, p_norms: Tensor, x_norms: Tensor, ratios: Tensor) -> Tensor:
    """Return the ratios, but 1 where a norm is zero, where a ratio is infinite or NaN, or where nothing is scaled."""
    if not adapts(group):
        return torch.ones_like(ratios)
    return torch.where((p_norms > 0) & (x_norms > 0) & (ratios < torch.inf), ratios, 1.0)


def adapts(group: Group) -> bool:
    """Return whether the steps of a group's tensors are scaled."""
    return bool(group["always_adapt"]) or decays(group)


def decays(group: Group) -> bool:
    """Return whether a group has weight decay."""
    return bool(group["weight_decay"] != 0)


def scaled(tensors: list[Tensor], factors: Tensor) -> list[Tensor]:
    """Return each tensor times its factor."""
    return list(torch._foreach_mul(tensors, list(factors.unbind())))
