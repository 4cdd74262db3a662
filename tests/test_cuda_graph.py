"""A captured step: replays continue from the current state, and may alternate with eager steps.

Without a GPU the tests run on a pretended one, whose graphs keep alive no memory that a real graph would not.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from catalogue import torch_class
from pretended_gpu import pretended_gpu
from torch import Tensor

import torch_gd
from torch_gd._engine import backend
from torch_gd.clipping import ClipAdaptive, ClipByGlobalNorm, ClipPolicy

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class RealGPU:
    """A real GPU, with the attributes of the pretended one that the tests use."""

    device = torch.device("cuda")

    @contextmanager
    def capture(self) -> Iterator[torch.cuda.CUDAGraph]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            yield graph

    def warm_up(self, step: Callable[[], Any]) -> None:
        """Take three steps on a side stream, as torch asks before a capture."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)


@pytest.fixture
def gpu() -> Iterator[Any]:
    if torch.cuda.is_available():
        yield RealGPU()
    elif backend.launch is None or not backend.interpreted():
        pytest.skip("needs a GPU, or Triton's interpreter")
    else:
        with pretended_gpu() as pretended:
            yield pretended


def backward(params: list[Tensor], target: Tensor) -> None:
    sum((p - target).square().sum() for p in params).backward()  # type: ignore[union-attr]  # a tensor


@pytest.mark.parametrize("static", [True, False], ids=["gradients stay", "gradients move into the graph"])
@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("RMSprop", None),
        ("Adam", None),
        ("AdamW", None),
        ("NAdam", None),
        ("RAdam", None),
        ("AdamW", ClipByGlobalNorm(5.0)),
        ("AdamW", ClipByGlobalNorm(5.0, skip_nonfinite=True)),
        ("AdamW", ClipAdaptive(0.5)),
        ("LAMB", ClipByGlobalNorm(5.0, skip_nonfinite=True)),
    ],
    ids=str,
)
def test_capture_and_replay(name: str, static: bool, policy: ClipPolicy | None, gpu: Any) -> None:
    """Replays and eager steps in turn give torch's values, and replays follow changes of the lr tensor."""
    torch.manual_seed(0)
    theirs = [torch.randn(100).requires_grad_() for _ in range(3)]
    ours = [p.detach().to(gpu.device).requires_grad_() for p in theirs]
    lr, target = torch.full((), 0.01, device=gpu.device), torch.zeros(100, device=gpu.device)
    optimizer = getattr(torch_gd, name)(ours, lr=lr, capturable=True, clip=policy)
    reference = torch_class(name)(theirs, lr=0.01, foreach=False)

    def one_step() -> None:
        optimizer.zero_grad(set_to_none=not static)
        backward(ours, target)
        optimizer.step()

    def reference_step(aim: float) -> None:
        reference.zero_grad()
        backward(theirs, torch.full((100,), aim))
        if isinstance(policy, ClipByGlobalNorm):
            torch.nn.utils.clip_grad_norm_(theirs, policy.max_norm)
        elif isinstance(policy, ClipAdaptive):
            torch_gd.clip_grad_adaptive_(theirs, policy.clipping, policy.eps)
        reference.step()

    gpu.warm_up(one_step)
    for _ in range(3):
        reference_step(0.0)
    with gpu.capture() as graph:
        one_step()
    for round_ in range(2):
        lr.fill_(0.01 / (round_ + 1))
        reference.param_groups[0]["lr"] = lr.item()
        target.fill_(0.1 * round_)
        for _ in range(2):
            graph.replay()
            reference_step(0.1 * round_)
            one_step()  # eager, between replays
            reference_step(0.1 * round_)
    assert optimizer.state[ours[0]]["step"].item() == 3 + 8
    for p, q in zip(ours, theirs):
        # Each of eleven steps rounds the parameter, and each update, of about lr, may differ by the norm's 17 ulps.
        eps = torch.finfo(torch.float32).eps
        torch.testing.assert_close(p.detach().cpu(), q.detach(), rtol=11 * eps, atol=11 * 0.01 * 17 * eps)


def test_adagrad_counts_in_a_graph_if_fused(gpu: Any) -> None:
    """Adagrad has no `capturable`; with `fused`, the counter that its learning rate decays by is on the GPU."""
    theirs = torch.zeros(5).requires_grad_()
    ours = torch.zeros(5, device=gpu.device).requires_grad_()
    optimizer = torch_gd.Adagrad([ours], lr=1.0, lr_decay=1.0, fused=True)
    reference = torch.optim.Adagrad([theirs], lr=1.0, lr_decay=1.0)
    ours.grad, theirs.grad = torch.ones_like(ours), torch.ones_like(theirs)
    gpu.warm_up(optimizer.step)
    with gpu.capture() as graph:
        optimizer.step()
    for _ in range(3):
        reference.step()
    for _ in range(3):
        graph.replay()
        reference.step()
    assert optimizer.state[ours]["step"].item() == 6
    # Six roundings of the parameter, each on both sides.
    torch.testing.assert_close(ours.detach().cpu(), theirs.detach(), rtol=6 * torch.finfo(torch.float32).eps, atol=0)


def test_adagrads_counter_stands_still_in_a_graph_if_not_fused(gpu: Any) -> None:
    """The counter is then on the CPU, where a replay does not advance it."""
    p = torch.zeros(5, device=gpu.device).requires_grad_()
    p.grad = torch.ones_like(p)
    optimizer = torch_gd.Adagrad([p])
    gpu.warm_up(optimizer.step)
    with gpu.capture() as graph:
        optimizer.step()
    before = optimizer.state[p]["step"].item()
    graph.replay()
    assert optimizer.state[p]["step"].item() == before


@pytest.mark.parametrize("name", ["SGD", "NAG", "Adagrad", "RMSprop", "Adam", "AdamW", "NAdam"])
def test_torchs_own_check_comes_first(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch refuses to capture a step without `capturable`, if that is an option, before anything is updated."""

    def refuse(self: torch.optim.Optimizer) -> None:
        raise RuntimeError("capturable is False")

    monkeypatch.setattr(torch.optim.Optimizer, "_accelerator_graph_capture_health_check", refuse)
    p = torch.zeros(3).requires_grad_()
    p.grad = torch.ones_like(p)
    optimizer = getattr(torch_gd, name)([p])
    has_option = "capturable" in inspect.signature(torch_class(name)).parameters
    with pytest.raises(RuntimeError, match="capturable is False") if has_option else nullcontext():
        optimizer.step()
    assert torch.all(p == 0) == has_option


def test_replays_leave_the_tables_of_eager_steps_alone(gpu: Any) -> None:
    """An eager step uploads no addresses if its gradients have not moved, so the graph's must be in another table."""
    p = torch.zeros(5, device=gpu.device).requires_grad_()
    optimizer = torch_gd.SGD([p], lr=1.0)
    eager, captured = torch.full_like(p, 1.0), torch.full_like(p, 100.0)
    p.grad = eager
    gpu.warm_up(optimizer.step)
    p.grad = captured
    with gpu.capture() as graph:
        optimizer.step()
    p.grad = eager
    for _ in range(2):
        optimizer.step()
        graph.replay()
    assert p.tolist() == [-(3 + 2 * 101.0)] * 5


def test_captured_norms_do_not_depend_on_caches(gpu: Any) -> None:
    """A graph still reads valid memory after what was cached before its capture has been evicted."""
    params = [torch.randn(size).to(gpu.device).requires_grad_() for size in (3000, 5)]
    for p in params:
        p.grad = torch.randn_like(p)
    torch_gd.clip_grad_norm_(params, 1e9)
    with gpu.capture() as graph:
        norm = torch_gd.clip_grad_norm_(params, 1e9)
    for size in range(10, 30):  # more sizes than the cache holds
        torch_gd.get_total_norm([torch.ones(size, device=gpu.device)])
    kept = [torch.full((2, n), 7, dtype=torch.int32, device=gpu.device) for n in range(1, 1000)]  # reuses freed memory
    for scale in (1.0, 2.0, 3.0):
        for p in params:
            p.grad.fill_(scale)  # type: ignore[union-attr]  # set above
        graph.replay()
        assert norm.item() == pytest.approx(scale * 3005**0.5, rel=2e-6)  # 17 ulps of float32
    del kept


@on_a_gpu
def test_a_step_never_waits() -> None:
    """An eager step makes no call that synchronises, whatever its counters, learning rate and policy."""
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
