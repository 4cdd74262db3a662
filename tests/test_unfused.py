"""Optimizers that torch has not fused, on the CPU: torch's values, in pieces or not, after unequal numbers of steps."""

from typing import Any

import pytest
import torch
from torch import Tensor

import torch_gd
from torch_gd.optimizers import unfused

SHAPES = [(3,), (5, 7), (), (0, 2), (2, 3, 4, 5), (4,)]
STEPS = 8  # RAdam is rectified from the sixth on
CASES: list[tuple[str, dict[str, Any]]] = [
    ("Adadelta", {}),
    ("Adamax", {"weight_decay": 0.1}),
    ("NAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("NAdam", {"maximize": True}),
    ("RAdam", {"weight_decay": 0.1}),
    ("RAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True}),
]


def leaves(dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    values = [torch.randn(shape).to(dtype) for shape in SHAPES]
    values[4] = values[4].to(memory_format=torch.channels_last)
    return [value.requires_grad_() for value in values]


@pytest.mark.parametrize("scratch", [4, 1 << 17], ids=["many pieces", "one piece"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_values_are_torchs(
    name: str,
    options: dict[str, Any],
    dtype: torch.dtype,
    scratch: int,
    torch_path: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unfused, "SCRATCH", scratch)
    ours, theirs = leaves(dtype), leaves(dtype)
    optimizer = getattr(torch_gd, name)(ours, lr=0.01, **options)
    reference = getattr(torch.optim, name)(theirs, lr=0.01, foreach=False, **options)
    for step in range(STEPS):
        for i, (p, q) in enumerate(zip(ours, theirs)):
            q.grad = None if i == step else torch.randn_like(q)
            p.grad = None if q.grad is None else q.grad.clone()
        optimizer.step()
        reference.step()
        for p, q in zip(ours, theirs):
            assert (p.grad is None) == (q.grad is None)
            assert p.grad is None or torch.equal(p.grad, q.grad)
    assert torch_gd.explain(optimizer).batches[0].route == "torch fused"
    # A step makes at most 24 roundings, each relative to a value that is at most the larger of 1 and the result.
    tolerance = STEPS * 24 * torch.finfo(dtype).eps
    for p, q in zip(ours, theirs):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(optimizer.state[p], reference.state[q], rtol=tolerance, atol=tolerance)


def test_a_product_that_was_replaced_is_multiplied(torch_path: None) -> None:
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.ones(3)
    optimizer = torch_gd.NAdam([p])
    for _ in range(3):
        optimizer.step()
    optimizer.state[p]["mu_product"] = product = torch.tensor(0.5)
    optimizer.step()
    assert product.item() < 0.5
