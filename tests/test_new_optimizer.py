"""An optimizer more is one rule and one class: no edit to the driver, none to the base."""

from typing import Any

import pytest
import torch
from torch import Tensor

from torch_gd import FusedOptimizer

pytest.importorskip("triton")
import triton
import triton.language as tl

from torch_gd.triton_kernels.rule import Rule


def signum_scalars(step, hyperparameters):
    lr, momentum = hyperparameters
    return lr, momentum, 1 - momentum


@triton.jit
def signum_update(p, g, state, h, options: tl.constexpr, exact: tl.constexpr):
    lr, momentum, one_minus_momentum = h
    momentum_buffer = momentum * state[0] + one_minus_momentum * g
    sign = tl.where(momentum_buffer > 0, 1.0, 0.0) - tl.where(momentum_buffer < 0, 1.0, 0.0)
    return p - lr * sign, (momentum_buffer,)


SIGNUM = Rule(signum_scalars, signum_update)


class Signum(FusedOptimizer):
    """Sign-SGD with momentum (Bernstein et al. 2018)."""

    def __init__(self, params: Any, lr: float = 1e-3, momentum: float = 0.9) -> None:
        defaults = {"lr": lr, "momentum": momentum, "maximize": False, "foreach": None, "differentiable": False}
        super().__init__(params, defaults)

    def rule(self, group: dict[str, Any]) -> tuple[Any, tuple[Any, ...]]:
        return SIGNUM, ()

    def state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("momentum_buffer",)

    def hyperparameters(self, group: dict[str, Any]) -> tuple[float | Tensor, ...]:
        return group["lr"], group["momentum"]


def test_a_seventh_optimizer(triton_device: torch.device) -> None:
    torch.manual_seed(0)
    params = [torch.randn(shape, device=triton_device).requires_grad_() for shape in ((3, 4), (5000,), ())]
    expected = [p.detach().clone() for p in params]
    buffers = [torch.zeros_like(p) for p in expected]
    optimizer = Signum([{"params": params[:1]}, {"params": params[1:], "lr": 0.1}])
    for _ in range(5):
        for p, q, buffer, lr in zip(params, expected, buffers, (1e-3, 0.1, 0.1)):
            p.grad = torch.randn_like(p)
            buffer.mul_(0.9).add_(p.grad, alpha=1 - 0.9)
            q.sub_(lr * buffer.sign())
        optimizer.step()
    for p, q in zip(params, expected):
        torch.testing.assert_close(p.detach(), q, rtol=0, atol=5 * 4 * torch.finfo(torch.float32).eps)


def test_without_triton_it_says_so(torch_path: None) -> None:
    p = torch.ones(2, requires_grad=True)
    p.grad = torch.ones(2)
    with pytest.raises(RuntimeError, match="Signum has no implementation without Triton"):
        Signum([p]).step()
