"""Steps, clipping and schedules never make the host wait for a (pretended) GPU, and upload little."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from catalogue import CASES, PLAIN_CASES, Case, on_params_device
from pretended_gpu import GPU, OnGPU, Pretended, pretended_gpu
from test_lr_scheduler import SCHEDULES
from torch import Tensor

import torch_gd
from benchmarks.launches import counted
from torch_gd._engine import backend
from torch_gd.clipping import ClipAdaptive, ClipByGlobalNorm, ClipByValue, ClipPolicy
from torch_gd.triton_kernels import runtime

pytestmark = pytest.mark.skipif(
    backend.launch is None or not backend.interpreted(), reason="on a GPU, torch's own debug mode checks this"
)
SHAPES = [(3, 4), (), (0,), (2, 3, 2, 2)]
EPS = torch.finfo(torch.float32).eps
CLIPPED = [Case("SGD"), Case("AdamW")]
POLICIES = [
    ClipByGlobalNorm(0.5),
    ClipByGlobalNorm(0.5, norm_type=3.0, skip_nonfinite=True),
    ClipByValue(0.1),
    ClipAdaptive(0.1),
]


@pytest.fixture
def gpu() -> Iterator[Pretended]:
    with pretended_gpu() as gpu:
        yield gpu


def copied(tensor: Tensor, _: int = 0) -> Tensor:
    return tensor.detach().clone()


def on_gpu(tensor: Tensor, _: int = 0) -> Tensor:
    return OnGPU(copied(tensor))


def train(
    case: Case, policy: ClipPolicy | None, scaled: bool, place: Callable[[Tensor, int], Tensor], watch: Any
) -> Any:
    """Return parameters and states after three steps; if `scaled`, an overflow makes the second one a skipped step."""
    torch.manual_seed(0)
    values = [torch.randn(shape) for shape in SHAPES]
    values[-1] = values[-1].contiguous(memory_format=torch.channels_last)
    params = [place(value, i).requires_grad_() for i, value in enumerate(values)]
    options = {key: on_params_device(params, value) for key, value in case.options.items()}
    groups = [{"params": params[:2]}, {"params": params[2:], "weight_decay": 0.2}]
    optimizer = getattr(torch_gd, case.name)(groups, **options, clip=policy)
    for step in range(3):
        for i, p in enumerate(params):
            p.grad = place(torch.randn(p.shape), i)
        if scaled:
            optimizer.grad_scale = place(torch.tensor([2.0]), 0)
            optimizer.found_inf = place(torch.tensor([float(step == 1)]), 0)
        with watch():
            optimizer.step()
    return params, [optimizer.state[p] for p in params]


@pytest.mark.parametrize("scaled", [False, True], ids=["", "scaled"])
@pytest.mark.parametrize(
    ("case", "policy"),
    [*((case, None) for case in CASES), *((case, policy) for case in CLIPPED for policy in POLICIES)],
    ids=str,
)
def test_a_step_never_waits(case: Case, policy: ClipPolicy | None, scaled: bool) -> None:
    """No step waits, not even the first, for any options, policy and scaler; values are those of a step on the CPU."""
    expected = train(case, policy, scaled, copied, nullcontext)
    with pretended_gpu() as gpu:
        params, states = train(case, policy, scaled, on_gpu, gpu.watching)
    for p, q in zip(params, expected[0]):
        assert torch.equal(p.memory, q)
    for state, other in zip(states, expected[1]):
        assert state.keys() == other.keys()
        for name, value in state.items():
            assert torch.equal(getattr(value, "memory", value), other[name])


@pytest.mark.parametrize("scaled", [False, True], ids=["", "scaled"])
@pytest.mark.parametrize("policy", [None, *POLICIES], ids=str)
@pytest.mark.parametrize("case", CLIPPED, ids=str)
@pytest.mark.parametrize("first", [0, 1], ids=["GPU first", "CPU first"])
def test_parameters_on_gpu_and_cpu(first: int, case: Case, policy: ClipPolicy | None, scaled: bool) -> None:
    """Here the host must wait for what the GPU has found, and must not read it before it has arrived."""
    expected, _ = train(case, policy, scaled, copied, nullcontext)
    with pretended_gpu():
        params, _ = train(case, policy, scaled, lambda t, i: on_gpu(t) if i % 2 == first else copied(t), nullcontext)
    for p, q in zip(params, expected):
        # In three steps each side rounds the parameter by half an ulp, and each update, of about lr = 1e-3, may differ
        # by the norm's 17 ulps.
        torch.testing.assert_close(getattr(p, "memory", p), q, rtol=3 * EPS, atol=3 * 1e-3 * 17 * EPS)


def leaves(count: int = 3) -> list[Tensor]:
    torch.manual_seed(0)
    params = [on_gpu(torch.randn(5)).requires_grad_() for _ in range(count)]
    for p in params:
        p.grad = on_gpu(torch.randn(5))
    return params


@pytest.mark.parametrize("on_device", [False, True], ids=["counters on the CPU", "counters on the GPU"])
@pytest.mark.parametrize("policy", [None, *POLICIES], ids=str)
@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
def test_what_a_step_uploads(case: Case, policy: ClipPolicy | None, on_device: bool, gpu: Pretended) -> None:
    """A step uploads its scalars if they have changed, and addresses if gradients have moved; it allocates nothing."""
    flag = "fused" if case.takes_fused else "capturable"
    params = leaves()
    groups = [{"params": params[:1]}, {"params": params[1:], "weight_decay": 0.1}]
    counts = case.name not in ("SGD", "NAG", "Lion")
    optimizer = case.ours(groups, clip=policy, **({flag: True} if on_device and (counts or case.takes_fused) else {}))
    group = optimizer.param_groups[0]
    spec = optimizer.spec(group)  # type: ignore[attr-defined]  # ours
    scalars = backend.launch.scalars_of(spec.rule, len(spec.values(group)) + len(spec.products))
    on_device = on_device or getattr(policy, "skip_nonfinite", False)
    changes = counts and not on_device
    rows = [len(groups) * (4 + scalars)] if changes else []
    with counted(make=False):  # what launches would write is not looked at
        for _ in range(2):
            optimizer.step()
        with gpu.watching():
            optimizer.step()
        assert (gpu.uploads, gpu.allocations) == (rows, [])
        kept = [p.grad for p in params]
        for p in params:
            p.grad = on_gpu(kept[0])
        with gpu.watching():
            optimizer.step()
        assert (sorted(gpu.uploads), gpu.allocations) == (sorted([*rows, len(params)]), [])


def test_counters_move_in_one_copy(gpu: Pretended) -> None:
    """When a scaler first appears, counters move to the GPU together, into one buffer."""
    params = leaves(7)
    optimizer = torch_gd.AdamW(params)
    for _ in range(2):
        optimizer.step()
    optimizer.grad_scale, optimizer.found_inf = on_gpu(torch.ones(1)), on_gpu(torch.zeros(1))
    with gpu.watching():
        optimizer.step()
    moved = [optimizer.state[p]["step"] for p in params]
    assert [step.memory.item() for step in moved] == [3.0] * 7
    assert len({step.memory.untyped_storage()._cdata for step in moved}) == 1


@pytest.mark.parametrize("elsewhere", [False, True], ids=["on the GPU", "on the CPU"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_counters_that_are_replaced(elsewhere: bool, dtype: torch.dtype, gpu: Pretended) -> None:
    params = leaves()
    optimizer = torch_gd.AdamW(params, fused=True)
    for _ in range(2):
        optimizer.step()
    replaced = torch.tensor(6.0, dtype=dtype)
    optimizer.state[params[1]]["step"] = replaced if elsewhere else on_gpu(replaced)
    with gpu.watching():
        optimizer.step()
    assert [optimizer.state[p]["step"].memory.item() for p in params] == [3.0, 7.0, 3.0]


def test_counters_whose_memory_or_dtype_changes(gpu: Pretended) -> None:
    """Counters are found again after one has other memory, or another tensor has the memory of one."""
    params = leaves()
    optimizer = torch_gd.AdamW(params, fused=True)
    place = torch.zeros(2)
    for p in params:
        optimizer.state[p] = {"step": OnGPU(place[0])} if p is params[0] else {}
        optimizer.state[p] |= {name: torch.zeros(5, device=GPU) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[p].setdefault("step", torch.zeros((), device=GPU))
    for _ in range(2):
        optimizer.step()
    optimizer.state[params[1]]["step"].memory = torch.tensor(6.0)  # as `.data =` would do
    optimizer.step()
    optimizer.state[params[0]]["step"] = OnGPU(place.view(torch.float64).fill_(3.0)[0])
    optimizer.step()
    assert [optimizer.state[p]["step"].memory.item() for p in params] == [4.0, 8.0, 4.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_counters_that_move_in_an_inference_step_stay_ordinary(dtype: torch.dtype, gpu: Pretended) -> None:
    params = leaves()
    optimizer = torch_gd.AdamW(params, fused=True)
    optimizer.step()
    optimizer.state[params[0]]["step"] = torch.tensor(1.0, dtype=dtype)
    optimizer.state[params[1]]["step"] = torch.tensor(1.0).to(GPU, torch.float16)
    with torch.inference_mode():
        optimizer.step()
    for p in params:
        assert optimizer.state[p]["step"].memory.item() == 2
        optimizer.state[p]["step"].zero_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["on the CPU", "of another dtype"])
def test_counters_do_not_move_while_a_graph_is_captured(dtype: torch.dtype, gpu: Pretended) -> None:
    """A captured move would be repeated by each replay, which would then take the same step for ever."""
    params = leaves()
    optimizer = torch_gd.AdamW(params, capturable=True)
    optimizer.step()
    step = torch.tensor(1.0, dtype=dtype)
    optimizer.state[params[0]]["step"] = step if dtype == torch.float32 else on_gpu(step)
    with gpu.capture(), pytest.raises(RuntimeError, match="take a step before it"):
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "clip",
    [
        lambda module, params: module.clip_grad_norm_(params, 0.5),
        lambda module, params: module.clip_grad_norm_(params, 0.5, norm_type=1.0),
        lambda module, params: module.clip_grad_value_(params, 0.1),
        lambda module, params: module.get_total_norm([p.grad for p in params]),
        lambda module, params: module.clip_grads_with_norm_(params, 0.5, module.get_total_norm(params[0].grad)),
    ],
)
def test_clipping(clip: Callable[[Any, list[Tensor]], Any], dtype: torch.dtype, gpu: Pretended) -> None:
    torch.manual_seed(0)
    params = [on_gpu(torch.randn(shape, dtype=dtype)).requires_grad_() for shape in SHAPES]
    others = [copied(p.memory).requires_grad_() for p in params]
    for p, q in zip(params, others):
        q.grad = torch.randn_like(q)
        p.grad = on_gpu(q.grad)
    with gpu.watching():
        norm = clip(torch_gd, params)
    expected = clip(torch.nn.utils, others)
    # torch rounds a bfloat16 norm, and the coefficient computed from it, each by half an ulp.
    tolerance = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 0}
    if norm is not None:
        torch.testing.assert_close(norm.memory, expected, check_dtype=False, **tolerance)
    for p, q in zip(params, others):
        torch.testing.assert_close(p.grad.memory, q.grad, **tolerance)


def test_adaptive_clipping(gpu: Pretended) -> None:
    params = leaves()
    others = [copied(p.memory).requires_grad_() for p in params]
    for p, q in zip(params, others):
        q.grad = copied(p.grad.memory)
    with gpu.watching():
        torch_gd.clip_grad_adaptive_(params, 0.1)
    torch_gd.clip_grad_adaptive_(others, 0.1)
    for p, q in zip(params, others):
        assert torch.equal(p.grad.memory, q.grad)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name: str, gpu: Pretended) -> None:
    """Schedules fill a learning rate that is a tensor on the GPU, and read nothing back."""
    optimizer = torch_gd.AdamW(leaves(), lr=on_gpu(torch.tensor(0.1, dtype=torch.float64)))
    reference = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler, expected = SCHEDULES[name](optimizer), SCHEDULES[name](reference)
    for _ in range(5):
        with gpu.watching():
            optimizer.step()
            scheduler.step()
        reference.step()
        expected.step()
        assert optimizer.param_groups[0]["lr"].memory.item() == reference.param_groups[0]["lr"]


def test_monitor(gpu: Pretended) -> None:
    """Neither steps nor losses wait, whether the monitor records them or not."""
    params = leaves()
    optimizer = torch_gd.AdamW(params)
    monitor = torch_gd.Monitor(optimizer, every=2)
    for _ in range(4):
        with gpu.watching():
            optimizer.step()
            monitor.train_loss(params[0].detach().sum())


WAITS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "cpu": lambda p, host: p.cpu(),
    "item": lambda p, host: p.sum().item(),
    "bool": lambda p, host: bool((p > 0).all()),
    "tolist": lambda p, host: p.tolist(),
    "a mask": lambda p, host: p[p > 0],
    "an assignment by mask": lambda p, host: p.__setitem__(p > 0, 0.0),
    "nonzero": lambda p, host: p.nonzero(),
    "allclose": lambda p, host: torch.allclose(p, p),
    "copy_ to the host": lambda p, host: host.copy_(p),
    "copy_ from the host": lambda p, host: p.copy_(host),
    "to": lambda p, host: host.to(GPU),
    "to, not pinned": lambda p, host: host.to(GPU, non_blocking=True),
    "a new tensor": lambda p, host: p + torch.tensor([1.0, 2.0, 3.0], device=GPU),
    "both": lambda p, host: p + host,
}


@pytest.mark.parametrize("how", WAITS)
def test_operations_that_wait_raise(how: str, gpu: Pretended) -> None:
    """The pretended GPU notices every way to wait, so that the tests above can fail."""
    p, host = on_gpu(torch.randn(3)), torch.randn(3)
    with gpu.watching(), pytest.raises(RuntimeError, match=r"waits|host"):
        WAITS[how](p, host)
    with gpu.watching():
        p.copy_(runtime.active.pinned(host), non_blocking=True)
    assert torch.equal(p.memory, host)
