"""The references for optimizers that torch does not have give timm's values, to the bit, where timm is installed."""

from typing import Any

import pytest
import references
import torch
from libraries import timm_class

import torch_gd

OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("Lion", {}),
    ("Lion", {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1, "maximize": True}),
    ("SGDW", {"lr": 0.1, "weight_decay": 0.1}),
    ("SGDW", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1, "maximize": True}),
    ("SGDW", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
]


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_references_are_timms(name: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    theirs = torch.randn(100, dtype=dtype).requires_grad_()
    p = theirs.detach().clone().requires_grad_()
    reference = getattr(references, name)([p], **options)
    timms = timm_class(name)([theirs], foreach=False, **options)
    for _ in range(20):
        theirs.grad = torch.randn_like(theirs)
        theirs.grad[:3] = 0.0  # a sign of 0
        p.grad = theirs.grad.clone()
        reference.step()
        timms.step()
        assert torch.equal(p, theirs)


def test_a_sign_of_zero_is_zero(device: torch.device) -> None:
    """Where gradient and average are 0, Lion moves nothing."""
    p = torch.ones(3, device=device).requires_grad_()
    p.grad = torch.tensor([0.0, 1.0, -1.0], device=device)
    torch_gd.Lion([p], lr=0.25).step()
    assert p.tolist() == [1.0, 0.75, 1.25]
