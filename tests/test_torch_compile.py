"""`torch.compile` of a training step compiles the model and runs our step uncompiled."""

import copy
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from catalogue import PLAIN_CASES, Case
from torch import Tensor
from torch._dynamo.testing import CompileCounter


@pytest.fixture(autouse=True)
def nothing_compiled_before() -> Iterator[None]:
    """Forget what other tests have compiled."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def training(case: Case, model: torch.nn.Module, x: Tensor) -> Callable[[], Tensor]:
    """Return a function that takes a training step and returns the loss."""
    optimizer = case.ours(list(model.parameters()))

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return step


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
def test_a_compiled_training_step(case: Case, device: torch.device) -> None:
    """The forward pass is the only graph, and dynamo does not warn about our code."""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3, device=device)
    twin, x = copy.deepcopy(model), torch.randn(5, 4, device=device)
    counter = CompileCounter()
    eager, compiled = training(case, twin, x), torch.compile(training(case, model, x), backend=counter)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Dynamo does not know")
        for _ in range(3):
            assert torch.equal(compiled(), eager())
    assert all(map(torch.equal, model.parameters(), twin.parameters()))
    assert counter.frame_count == 1


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
def test_a_compiled_step_of_many_optimizers(case: Case, device: torch.device) -> None:
    """Nothing is compiled for a step, so there may be more optimizers than dynamo's limit on recompiling."""
    params = [torch.ones(3, device=device, requires_grad=True) for _ in range(3)]
    twins = [torch.ones(3, device=device, requires_grad=True) for _ in range(3)]
    counter = CompileCounter()
    optimizers, eager = [case.ours([p]) for p in params], case.ours(twins)
    compiled = torch.compile(lambda optimizer: optimizer.step(), backend=counter)
    with torch._dynamo.config.patch(recompile_limit=1):
        for _ in range(3):
            for p in [*params, *twins]:
                p.grad = torch.full_like(p, 0.5)
            for optimizer in optimizers:
                compiled(optimizer)
            eager.step()
    assert all(map(torch.equal, params, twins))
    assert counter.frame_count == 0
