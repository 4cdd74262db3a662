"""Steps that something else watches: fake tensors, `make_fx`, and optimizers made inside a compiled function."""

from functools import partial
from typing import Any

import pytest
import torch
from catalogue import PLAIN_CASES, Case
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim import Optimizer

import torch_gd

OPTIONS: list[dict[str, Any]] = [{}, {"clip": 1.0, "l1": 0.1}, {"fused": True}]


def step(optimizer: Optimizer, p: Tensor, gradient: Tensor) -> Tensor:
    p.grad = gradient
    optimizer.step()
    return p.detach().clone()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
def test_fake_tensors(case: Case, options: dict[str, Any], device: torch.device) -> None:
    """Under `FakeTensorMode`, as for an estimate of memory, steps run and make the states that they would make."""
    if "fused" in options and not case.takes_fused:
        pytest.skip("this optimizer takes no `fused`")
    with FakeTensorMode():
        p = torch.nn.Parameter(torch.ones(3, 4, device=device))
        optimizer = case.ours([p], **options)
        for _ in range(2):
            step(optimizer, p, torch.ones_like(p))
        fake = {name: (value.shape, value.dtype) for name, value in optimizer.state[p].items()}
    real = torch.nn.Parameter(torch.ones(3, 4, device=device))
    optimizer = case.ours([real], **options)
    step(optimizer, real, torch.ones_like(real))
    assert fake == {name: (value.shape, value.dtype) for name, value in optimizer.state[real].items()}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
def test_make_fx(case: Case, options: dict[str, Any], device: torch.device) -> None:
    """`make_fx` records torch's operators, since it could not record a kernel of ours."""
    if "fused" in options and not case.takes_fused:
        pytest.skip("this optimizer takes no `fused`")
    if case.name == "Adagrad" and "fused" not in options:
        pytest.skip("torch's for-loop reads the counter, which cannot be recorded")
    gradient = torch.linspace(-1, 1, 3, device=device)
    ours, theirs = (torch.ones(3, device=device, requires_grad=True) for _ in range(2))
    optimizer, watched = case.ours([ours], **options), case.ours([theirs], **options)
    recorded = make_fx(partial(step, watched, theirs))(gradient)
    step(optimizer, ours, gradient)
    for _ in range(2):  # as if nothing had been recorded
        expected, found = step(optimizer, ours, gradient), step(watched, theirs, gradient)
    torch.testing.assert_close(found, expected, rtol=0, atol=3 * 16 * torch.finfo(torch.float32).eps)
    with torch.no_grad():
        recorded(gradient)
    assert not torch.equal(theirs, found), "the update was not recorded"


def test_an_optimizer_made_inside_a_compiled_function() -> None:
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13):
        pytest.skip("this torch can compile the constructors of its own optimizers only")

    def train(p: Tensor, gradient: Tensor) -> Tensor:
        return step(torch_gd.AdamW([p], lr=0.1, clip=1.0), p, gradient)

    eager = train(torch.ones(3, requires_grad=True), torch.ones(3))
    compiled = torch.compile(train, backend="eager")(torch.ones(3, requires_grad=True), torch.ones(3))
    assert torch.equal(eager, compiled)
