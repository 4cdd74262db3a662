"""A captured step, natively: replays go on from where they are, and eager steps beside them disturb nothing."""

import pytest
import torch
from torch import Tensor

import torch_gd

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("name", ["RMSprop", "Adam", "AdamW"])
@pytest.mark.parametrize("static", [True, False], ids=["gradients stay", "gradients move into the graph"])
def test_capture_and_replay(name: str, static: bool) -> None:
    torch.manual_seed(0)
    ours = [torch.randn(100, device="cuda").requires_grad_() for _ in range(3)]
    theirs = [p.detach().clone().requires_grad_() for p in ours]
    lr = torch.tensor(0.01, device="cuda")
    optimizer = getattr(torch_gd, name)(ours, lr=lr, capturable=True)
    reference = getattr(torch.optim, name)(theirs, lr=lr, capturable=True, foreach=False)
    target = torch.zeros(100, device="cuda")

    def backward(params: list[Tensor]) -> None:
        sum((p - target).square().sum() for p in params).backward()  # type: ignore[union-attr]  # a tensor

    def one_step() -> None:
        optimizer.zero_grad(set_to_none=not static)
        backward(ours)
        optimizer.step()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            one_step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        one_step()
    for round_ in range(3):
        lr.fill_(0.01 / (round_ + 1))
        target.fill_(0.1 * round_)
        for _ in range(2):
            graph.replay()
            one_step()  # eager, between replays
    torch.cuda.synchronize()
    assert optimizer.state[ours[0]]["step"].item() == 3 + 12

    target.zero_()
    lr.fill_(0.01)
    for _ in range(3):
        reference.zero_grad()
        backward(theirs)
        reference.step()
    for round_ in range(3):
        lr.fill_(0.01 / (round_ + 1))
        target.fill_(0.1 * round_)
        for _ in range(4):
            reference.zero_grad()
            backward(theirs)
            reference.step()
    for p, q in zip(ours, theirs):
        # torch derives its scalars on the device in float32, to some 1e-4 of 1 - beta2 ** step; lr bounds an update.
        torch.testing.assert_close(p, q, rtol=0, atol=15 * 0.01 * 1e-3)


def test_norms_in_a_graph_outlive_what_was_cached_before_it() -> None:
    params = [torch.randn(size, device="cuda").requires_grad_() for size in (3000, 5)]
    for p in params:
        p.grad = torch.randn_like(p)
    torch_gd.clip_grad_norm_(params, 1e9)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        norm = torch_gd.clip_grad_norm_(params, 1e9)
    kept = [torch.full((2, n), 7, dtype=torch.int32, device="cuda") for n in range(1, 1000)]  # takes what was freed
    for scale in (1.0, 2.0, 3.0):
        for p in params:
            p.grad.fill_(scale)  # type: ignore[union-attr]  # set above
        graph.replay()
        assert norm.item() == pytest.approx(scale * 3005**0.5, rel=2e-6)  # 17 ulps of float32
    del kept


def test_a_step_never_waits() -> None:
    """No call of an eager step synchronises, whichever counters, learning rate and policy it has."""
    for options in (
        {},
        {"fused": True},
        {"lr": torch.tensor(0.01, device="cuda")},
        {"capturable": True, "clip": torch_gd.ClipAdaptive()},
        {"clip": torch_gd.ClipByValue(0.5), "amsgrad": True},
    ):
        params = [torch.randn(100, 3, device="cuda").requires_grad_() for _ in range(5)]
        optimizer = torch_gd.AdamW(params, **options)
        for step in range(4):
            for p in params:
                p.grad = torch.randn_like(p)
            torch.cuda.set_sync_debug_mode("error" if step else "default")
            try:
                optimizer.step()
            finally:
                torch.cuda.set_sync_debug_mode("default")
