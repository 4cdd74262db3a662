"""RMSprop by torch's fused Adam, on the CPU: torch's values, and gradients that stay as they are."""

from typing import Any

import pytest
import torch
from torch import Tensor

import torch_gd
from torch_gd.optimizers import fused_rmsprop

OPTIONS: list[dict[str, Any]] = [
    {"momentum": momentum, "weight_decay": weight_decay, "maximize": maximize}
    for momentum in (0, 0.9)
    for weight_decay in (0, 0.1)
    for maximize in (False, True)
]
OTHERS: list[dict[str, Any]] = [{"alpha": 0.0}, {"alpha": 1.0}, {"alpha": 1 - 2.0**-53}, {"eps": 0.0, "momentum": 0.5}]


def leaves(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = [(3,), (5, 7), (), (0, 2), (2, 3, 4, 5), (4,)]
    values = [torch.randn(shape).to(dtype) for shape in shapes]
    values[4] = values[4].to(memory_format=torch.channels_last)
    return [value.requires_grad_() for value in values]


@pytest.mark.parametrize("scratch", [4, 1 << 17], ids=["many pieces", "one piece"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("options", OPTIONS + OTHERS, ids=str)
def test_values_are_torchs(
    options: dict[str, Any], dtype: torch.dtype, scratch: int, torch_path: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a gradient is infinite or NaN: such an element must spoil no other one, and stay what it is."""
    monkeypatch.setattr(fused_rmsprop, "SCRATCH", scratch)
    ours, theirs = leaves(dtype), leaves(dtype)
    optimizer = torch_gd.RMSprop(ours, lr=0.01, **options)
    reference = torch.optim.RMSprop(theirs, lr=0.01, foreach=False, **options)
    steps = 8
    for step in range(steps):
        for p, q in zip(ours, theirs):
            q.grad = torch.randn_like(q)
            if step == 5 and q.numel() > 30:
                q.grad[0].fill_(float("inf"))
                q.grad[1].fill_(float("nan"))
            p.grad = q.grad.clone()
        optimizer.step()
        reference.step()
        for p, q in zip(ours, theirs):
            torch.testing.assert_close(p.grad, q.grad, rtol=0, atol=0, equal_nan=True)
    fuses = options.get("alpha") != 1.0
    assert torch_gd.explain(optimizer).batches[0].route == ("torch fused" if fuses else "torch foreach")
    # A step makes at most 16 roundings, each relative to a value that is at most the larger of 1 and the result.
    tolerance = steps * 16 * torch.finfo(dtype).eps
    for p, q in zip(ours, theirs):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance, equal_nan=True)
        torch.testing.assert_close(
            optimizer.state[p], reference.state[q], rtol=tolerance, atol=tolerance, equal_nan=True
        )


@pytest.mark.parametrize("clip", [None, 1e9], ids=["", "clipped"])
def test_a_grad_scaler_is_heeded(clip: float | None, torch_path: None) -> None:
    """torch's fused kernels unscale and skip by themselves, which this call does not: gradients are treated before."""
    ours, theirs = torch.ones(4, requires_grad=True), torch.ones(4, requires_grad=True)
    optimizer, reference = torch_gd.RMSprop([ours], clip=clip), torch.optim.RMSprop([theirs])
    for skipped in (0.0, 1.0, 0.0):
        ours.grad, theirs.grad = torch.full((4,), 8.0), torch.ones(4)
        vars(optimizer).update(grad_scale=torch.tensor(8.0), found_inf=torch.tensor(skipped))
        optimizer.step()
        if not skipped:
            reference.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2 * 16 * torch.finfo(torch.float32).eps)
