"""Which implementation updates a parameter, and that its values are right in the cases where implementations differ."""

import subprocess
import sys
import weakref
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from catalogue import LAYERWISE, PLAIN_CASES, Case
from torch import Tensor
from torch.optim import Optimizer

import torch_gd
from benchmarks.launches import counted
from torch_gd._engine import backend
from torch_gd._engine.parts import sharing_memory
from torch_gd._engine.plan import Plan
from torch_gd.clipping import ClipAdaptive, ClipByGlobalNorm, ClipByValue, ClipPolicy
from torch_gd.triton_kernels import runtime
from torch_gd.triton_kernels.runtime import Runtime

ROOT = Path(__file__).parent.parent


def leaves(count: int, device: torch.device, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(0)
    params = [torch.randn(3, 4, device=device).to(dtype).requires_grad_() for _ in range(count)]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


def routes(optimizer: torch.optim.Optimizer) -> list[str]:
    return [batch.route for batch in torch_gd.explain(optimizer).batches]


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
def test_plain_parameters_take_our_kernels(case: Case, triton_device: torch.device) -> None:
    assert routes(case.ours(leaves(3, triton_device))) == ["our kernels"]


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"foreach": True}, "torch foreach"),
        ({"foreach": False}, "torch for-loop"),
        ({"differentiable": True}, "torch default"),
        ({"fused": False}, "torch default"),
    ],
)
def test_flags_choose_torchs_implementations(
    case: Case, flags: dict[str, bool], expected: str, triton_device: torch.device
) -> None:
    if "fused" in flags and not case.takes_fused:
        pytest.skip("this optimizer takes no `fused`")
    assert routes(case.ours(leaves(3, triton_device), **flags)) == [expected]


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
def test_the_cpu_gets_torchs_fused_kernels_where_it_has_them(case: Case, torch_path: None) -> None:
    expected = "torch for-loop" if case.name in ("RMSprop", "Lion") else "torch fused"
    assert routes(case.ours(leaves(3, torch.device("cpu")))) == [expected]


@pytest.mark.parametrize("name", ["SGD", "NAG"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fused", [None, True])
def test_half_precision_sgd_keeps_off_torchs_fused_cpu_kernel(
    name: str, dtype: torch.dtype, fused: bool | None, torch_path: None
) -> None:
    """torch's fused CPU kernel for SGD leaves whole vectors of half-precision elements unchanged."""
    p = torch.zeros(64, dtype=dtype).requires_grad_()
    p.grad = torch.ones_like(p)
    getattr(torch_gd, name)([p], lr=1.0, fused=fused).step()
    assert torch.all(p < 0)


@pytest.mark.parametrize("case", [*PLAIN_CASES, *LAYERWISE], ids=str)
def test_one_launch_for_all_groups_of_a_signature(case: Case, triton_device: torch.device) -> None:
    """Groups share a launch although their settings differ; only another dtype takes a launch of its own."""
    wide, narrow = leaves(4, triton_device), leaves(3, triton_device, torch.bfloat16)
    optimizer = case.ours([{"params": wide[:2]}, {"params": [*wide[2:], *narrow], "lr": 0.5, "weight_decay": 0.1}])
    expected = LAYERS if case in LAYERWISE else ONE_UPDATE
    with counted(make=not backend.interpreted()) as launches:
        optimizer.step()
        launches.clear()
        optimizer.step()
        assert launches == expected + expected
        narrow[0].grad = wide[1].grad = None
        optimizer.step()
        assert launches == expected + expected + expected + expected


LAYERS = Counter(update_kernel=2, ratio_kernel=1)  # measures and applies, and finds the ratios between
ONE_UPDATE, A_PROLOGUE = Counter(update_kernel=1), Counter(scalars_kernel=1)
A_NORM, UNITS = Counter(partial_kernel=1, coefficient_kernel=1), Counter(unit_kernel=1)


@pytest.mark.parametrize("count", [1, 300, 3_000])
@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("SGD", {"momentum": 0.9, "fused": True}, ONE_UPDATE),  # SGD has no step counter
        ("AdamW", {}, ONE_UPDATE),
        ("Adagrad", {"fused": True}, ONE_UPDATE + A_PROLOGUE),
        ("RMSprop", {"capturable": True}, ONE_UPDATE + A_PROLOGUE),
        ("AdamW", {"fused": True}, ONE_UPDATE + A_PROLOGUE),
        ("NAdam", {"capturable": True}, ONE_UPDATE + A_PROLOGUE),
        ("AdamW", {"clip": ClipByValue(1.0)}, ONE_UPDATE),
        ("AdamW", {"clip": ClipByGlobalNorm(1.0)}, ONE_UPDATE + A_NORM),
        ("AdamW", {"clip": ClipByGlobalNorm(1.0), "fused": True}, ONE_UPDATE + A_NORM + A_PROLOGUE),
        ("SGD", {"clip": ClipAdaptive()}, ONE_UPDATE + UNITS),
        ("LAMB", {"clip": ClipByGlobalNorm(1.0), "fused": True}, LAYERS + A_NORM + A_PROLOGUE),
        ("LARS", {}, LAYERS),
    ],
    ids=str,
)
def test_launches_do_not_grow_with_the_number_of_tensors(
    name: str,
    options: dict[str, Any],
    expected: Counter[str],
    count: int,
    triton_device: torch.device,
) -> None:
    """A step makes the same few launches for any number of tensors. Interpreted, launches are counted but not made."""
    params = [torch.zeros(1, device=triton_device).requires_grad_() for _ in range(count)]
    for p in params:
        p.grad = torch.zeros_like(p)
    groups = [{"params": params[i::3], "lr": 0.1 * i} for i in range(min(count, 3))]
    optimizer = getattr(torch_gd, name)(groups, **options)
    with counted(make=not backend.interpreted()) as launches:
        for step in range(1, 3):
            optimizer.step()
            assert launches == Counter({kernel: step * launched for kernel, launched in expected.items()})


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
def test_autograd_sees_that_a_parameter_has_changed(case: Case, device: torch.device) -> None:
    """A step must mark parameters as modified, so that a second backward pass over stale values raises."""
    p = torch.ones(3, device=device).requires_grad_()
    optimizer = case.ours([p])
    for _ in range(2):
        loss = p.square().sum()
        loss.backward(retain_graph=True)
        optimizer.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
        optimizer.zero_grad()


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
def test_gradients_that_come_and_go_are_planned_once(case: Case, device: torch.device, planned: list[Plan]) -> None:
    """Each set of parameters that has gradients, as under layer drop, is planned once; the values are torch's."""
    ours, theirs = leaves(4, device), leaves(4, device)
    optimizer, reference = case.ours(ours), case.reference(theirs, foreach=False)
    for step in range(9):
        for i, (p, q) in enumerate(zip(ours, theirs)):
            q.grad = None if (step + i) % 3 == 0 else torch.full_like(q, 0.1 * step - 0.3)
            p.grad = None if q.grad is None else q.grad.clone()
        optimizer.step()
        reference.step()
        for p, q in zip(ours, theirs):
            torch.testing.assert_close(p, q, rtol=0, atol=(step + 1) * 16 * torch.finfo(torch.float32).eps)
    assert len(planned) <= 6  # three sets, each planned once more when its states exist


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
def test_sets_of_gradients_that_never_repeat(case: Case, device: torch.device) -> None:
    """In a mixture of experts, each parameter has its own number of updates; values and counters must be torch's."""
    draw = Random(1)  # of whose sets no two are the same
    ours, theirs = leaves(6, device), leaves(6, device)
    settings: list[dict[str, Any]] = [{}, {"lr": 0.02}]
    optimizer = case.ours([{"params": ours[i::2], **more} for i, more in enumerate(settings)])
    reference = case.reference([{"params": theirs[i::2], **more} for i, more in enumerate(settings)], foreach=False)
    for step in range(10):
        for p, q in zip(ours, theirs):
            q.grad = None if draw.random() < 0.5 else torch.full_like(q, draw.uniform(-1, 1))
            p.grad = None if q.grad is None else q.grad.clone()
        optimizer.step()
        reference.step()
        for p, q in zip(ours, theirs):
            torch.testing.assert_close(p, q, rtol=0, atol=(step + 1) * 16 * torch.finfo(torch.float32).eps)
    for p, q in zip(ours, theirs):
        assert optimizer.state[p].get("step") == reference.state[q].get("step")


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
@pytest.mark.parametrize("dtypes", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)], ids=str)
def test_gradients_that_change_their_dtype(
    case: Case, dtypes: tuple[torch.dtype, torch.dtype], triton_device: torch.device
) -> None:
    """A gradient's dtype may change in mid-training, even where a gradient of the other dtype had the same address."""
    p = torch.ones(4, device=triton_device).requires_grad_()
    q = torch.ones(4, device=triton_device).requires_grad_()
    p.grad_dtype = None
    optimizer, reference = case.ours([p], lr=0.1), case.reference([q], lr=0.1, foreach=False)
    storage = torch.zeros(4, device=triton_device)
    for step in range(5):
        gradient = storage.view(dtypes[step % 2]).flatten()[:4]
        p.grad = gradient.fill_(0.5)
        q.grad = torch.full_like(q, 0.5)
        optimizer.step()
        reference.step()
        # As in torch, a momentum buffer that began with a bfloat16 gradient is bfloat16. Each step rounds it, at values
        # of up to 4, and lr = 0.1 scales the result.
        torch.testing.assert_close(p, q, rtol=0, atol=(step + 1) * 0.4 * torch.finfo(torch.bfloat16).eps)


def vanish(step: int, g: Tensor) -> Tensor | None:
    return None if step == 3 else g


def sparse(step: int, g: Tensor) -> Tensor | None:
    return g.to_sparse() if step == 3 else g


def subclass(step: int, g: Tensor) -> Tensor | None:
    return g.as_subclass(Marked) if step == 3 else g


class Marked(Tensor):
    pass


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
@pytest.mark.parametrize("become", [vanish, sparse, subclass])
def test_gradients_that_vanish_or_change_their_type(
    case: Case, become: Callable[[int, Tensor], Tensor | None], device: torch.device
) -> None:
    """For one step in mid-training, one gradient is missing, sparse or of a tensor subclass."""
    if become is sparse and (case.name not in ("SGD", "Adagrad") or case.options.get("weight_decay")):
        pytest.skip("torch refuses it")
    ours, theirs = leaves(3, device), leaves(3, device)
    optimizer, reference = case.ours(ours), case.reference(theirs, foreach=False)
    for step in range(6):
        for i, (p, q) in enumerate(zip(ours, theirs)):
            g = torch.full_like(q, 0.1 * step + 0.3)
            p.grad, q.grad = (become(step, g.clone()) if i == 0 else g.clone() for _ in range(2))
        optimizer.step()
        reference.step()
    for p, q in zip(ours, theirs):
        # A few roundings a step, of parameters of up to 4.
        torch.testing.assert_close(p, q, rtol=0, atol=6 * 16 * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
def test_two_dtypes_in_one_group(case: Case, device: torch.device) -> None:
    def mixed() -> list[Tensor]:
        return [*leaves(2, device), *leaves(2, device, torch.float64)]

    ours, theirs = mixed(), mixed()
    optimizer, reference = case.ours(ours), case.reference(theirs, foreach=False)
    for _ in range(3):
        optimizer.step()
        reference.step()
    for p, q in zip(ours, theirs):
        # A few roundings a step, of parameters of up to 4.
        torch.testing.assert_close(p, q, rtol=0, atol=3 * 16 * torch.finfo(p.dtype).eps)


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
def test_only_complex_parameters_leave_the_fast_route(case: Case, device: torch.device) -> None:
    """torch updates a complex parameter; a strided one stays on the route of the others."""
    plain = leaves(3, device)
    complex_one = torch.randn(3, dtype=torch.complex64, device=device).requires_grad_()
    strided = torch.randn(4, 6, device=device)[:, ::2].requires_grad_()
    for p in (complex_one, strided):
        p.grad = torch.randn_like(p)
    optimizer = case.ours([*plain, complex_one, strided])
    odd = [batch.route for batch in torch_gd.explain(optimizer).batches if "complex64" in batch.dtypes]
    assert odd[0] in ("torch default", "torch foreach", "torch for-loop")
    assert routes(case.ours([*plain, strided])) == routes(case.ours(leaves(4, device)))


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate parameters")
@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
def test_a_parameter_listed_twice_is_updated_twice(case: Case, device: torch.device) -> None:
    ours, theirs = leaves(2, device), leaves(2, device)
    optimizer, reference = (
        case.ours([*ours, ours[0]]),
        case.reference([*theirs, theirs[0]], foreach=False),
    )
    for _ in range(3):
        optimizer.step()
        reference.step()
    for p, q in zip(ours, theirs):
        torch.testing.assert_close(p, q, rtol=0, atol=6 * 4 * 4 * torch.finfo(torch.float32).eps)


OVERLAPS: dict[str, Callable[[Tensor], list[Tensor]]] = {
    "strided and dense": lambda base: [base[:, ::2], base[:4], base[7]],
    "dense and dense": lambda base: [base[:5], base[3:], base.new_ones(3)],
}


@pytest.mark.parametrize("late", [False, True], ids=["", "by data"])
@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
def test_parameters_that_share_memory(case: Case, overlap: str, late: bool, device: torch.device) -> None:
    """torch's loop updates one after the other; updates in one launch, or in dense stand-ins, would lose some."""
    gradients: dict[tuple[int, int], Tensor] = {}

    def train(make: Callable[..., Optimizer]) -> tuple[Tensor, list[Any]]:
        base = torch.linspace(1, 2, 64, device=device).view(8, 8)
        views = OVERLAPS[overlap](base)
        params = [(torch.ones_like(view) if late else view).requires_grad_() for view in views]
        optimizer = make(params)
        for step in range(4):
            for i, p in enumerate(params):
                if step == 2 and late:
                    p.data = views[i]
                p.grad = gradients.setdefault((i, step), torch.randn(p.shape, device=device)).clone()
            optimizer.step()
        return base, [optimizer.state[p] for p in params]

    ours, states = train(case.ours)
    theirs, expected = train(partial(case.reference, foreach=False))
    # At most three updates a step, each of 16 roundings at most, of values that may be as large as 4 in between.
    tolerance = 4 * 3 * 16 * torch.finfo(torch.float32).eps
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=4 * tolerance)
    torch.testing.assert_close(states, expected, rtol=tolerance, atol=4 * tolerance)


@pytest.mark.parametrize(
    ("views", "found"),
    [
        (lambda base: [base[4:], base[:4], base[:0]], 0),
        (lambda base: [base, base.view(64), torch.zeros(3)], 2),
        (lambda base: [base[:, :3], base[:, 3:]], 2),  # side by side: held for overlapping, to be safe
        (lambda base: [base, base[0], base[2], torch.zeros(3)], 3),
        (lambda base: [base, base.detach()[3:].to("meta"), torch.zeros(2, device="meta")], 0),
    ],
)
def test_which_tensors_share_memory(views: Callable[[Tensor], list[Tensor]], found: int) -> None:
    assert len(set(map(id, sharing_memory(views(torch.zeros(8, 8)))))) == found


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
def test_complex_parameters(case: Case, device: torch.device) -> None:
    ours = torch.randn(5, dtype=torch.complex64, device=device).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    optimizer, reference = case.ours([ours]), case.reference([theirs])
    for _ in range(3):
        ours.grad = torch.randn_like(ours)
        theirs.grad = ours.grad.clone()
        optimizer.step()
        reference.step()
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}], ids=str)
@pytest.mark.parametrize("name", ["SGD", "Adagrad"])
def test_sparse_gradients(name: str, options: dict[str, float], device: torch.device) -> None:
    if name == "Adagrad" and options:
        pytest.skip("Adagrad has no momentum")
    torch.manual_seed(0)
    values = torch.randn(6, 3, device=device)
    ours, theirs = [[values.clone().requires_grad_(), torch.ones(2, device=device).requires_grad_()] for _ in range(2)]
    optimizer = getattr(torch_gd, name)(ours, **options)
    reference = getattr(torch.optim, name)(theirs, **options)
    for step in range(4):
        for params in (ours, theirs):
            index = torch.tensor([[step, 5]], device=device)
            params[0].grad = torch.sparse_coo_tensor(index, torch.ones(2, 3, device=device), (6, 3))
            params[1].grad = torch.ones(2, device=device)
        optimizer.step()
        reference.step()
    for p, q in zip(ours, theirs):
        torch.testing.assert_close(p, q, rtol=4 * 4 * torch.finfo(torch.float32).eps, atol=0)


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
def test_differentiable(case: Case) -> None:
    """With `differentiable=True` a gradient flows through the step, as in torch."""

    def through(make: object) -> Tensor:
        torch.manual_seed(0)
        start = torch.randn(4, requires_grad=True)
        p = start.clone()
        p.retain_grad()
        p.grad = (start * 3).clone()
        make([p], differentiable=True).step()  # type: ignore[operator]
        (gradient,) = torch.autograd.grad(p.sum(), start)
        return gradient

    assert torch.equal(through(case.ours), through(case.reference))


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
@pytest.mark.parametrize("dtypes", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)], ids=str)
def test_gradients_of_another_dtype(
    case: Case, dtypes: tuple[torch.dtype, torch.dtype], device: torch.device, request: pytest.FixtureRequest
) -> None:
    """Our kernels take gradients of another dtype for every optimizer; torch's route does where torch does."""
    torch.manual_seed(0)
    ours = torch.randn(40, device=device).to(dtypes[0]).requires_grad_()
    ours.grad_dtype = dtypes[1]
    wide = ours.detach().float().requires_grad_()
    if "torch" in request.node.callspec.params["device"] and case.name in ("Adam", "AdamW", "RMSprop", "NAdam"):
        pytest.skip("torch refuses them")
    optimizer, reference = case.ours([ours], lr=0.1), case.reference([wide], lr=0.1, foreach=False)
    for _ in range(5):
        ours.grad = torch.randn(40, device=device).to(dtypes[1])
        wide.grad = ours.grad.float()
        optimizer.step()
        reference.step()
    # Stored values are rounded to bfloat16 once a step, relative to values of up to 4.
    assert (ours.float() - wide).abs().max() <= 5 * 4 * torch.finfo(torch.bfloat16).eps
    assert (ours.float() - wide).abs().max() > 0 or dtypes[0] == torch.float32


def test_momentum_buffer_has_torchs_dtype(device: torch.device) -> None:
    for weight_decay in (0.0, 0.1):
        found = []
        for package in (torch_gd, torch.optim):
            p = torch.ones(4, device=device).requires_grad_()
            p.grad_dtype = torch.bfloat16
            p.grad = torch.ones(4, dtype=torch.bfloat16, device=device)
            optimizer = package.SGD([p], momentum=0.9, weight_decay=weight_decay)
            optimizer.step()
            found.append(optimizer.state[p]["momentum_buffer"].dtype)
        assert found[0] == found[1]


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
def test_thousands_of_tiny_tensors(case: Case, torch_path: None) -> None:
    params = leaves(1000, torch.device("cpu"))
    optimizer = case.ours(params, foreach=None)
    optimizer.step()
    assert all(p.isfinite().all() for p in params)


def test_hooks_and_closures(device: torch.device) -> None:
    (p,) = leaves(1, device)
    optimizer = torch_gd.AdamW([p])
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))

    def closure() -> Tensor:
        assert torch.is_grad_enabled()
        seen.append("closure")
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) is not None
    assert seen == ["before", "closure", "after"]


def test_gradients_are_not_kept_alive(device: torch.device) -> None:
    params = leaves(3, device)
    optimizer = torch_gd.AdamW(params)
    optimizer.step()
    gradient = weakref.ref(params[0].grad)
    optimizer.zero_grad()
    assert gradient() is None


def test_gradients_are_not_kept_alive_by_a_plan_that_no_longer_fits(device: torch.device) -> None:
    params = leaves(3, device)
    optimizer = torch_gd.AdamW(params)
    for _ in range(3):
        optimizer.step()
    params[0].grad = None
    gradient = weakref.ref(params[1].grad)
    optimizer.step()
    optimizer.zero_grad()
    assert gradient() is None


def test_states_that_are_moved_away_are_not_kept_alive(device: torch.device) -> None:
    """A plan must not hold states that a user moves to the host to free GPU memory."""
    params = leaves(3, device)
    optimizer = torch_gd.AdamW(params)
    for _ in range(3):
        optimizer.step()
    state = optimizer.state[params[0]]
    moment = weakref.ref(state["exp_avg"])
    state["exp_avg"] = state["exp_avg"].clone()
    assert moment() is None


def test_names_of_torch_optim_are_available() -> None:
    assert torch_gd.Rprop is torch.optim.Rprop
    assert torch_gd.lr_scheduler.StepLR is torch.optim.lr_scheduler.StepLR
    assert torch_gd.RMSProp is torch_gd.RMSprop
    with pytest.raises(AttributeError, match=r"nor has torch\.optim"):
        _ = torch_gd.NoSuchOptimizer
    assert {name for name in dir(torch.optim) if name[0].isupper()} <= set(dir(torch_gd))


def test_works_without_triton() -> None:
    """In a process that does not find Triton, every optimizer still steps, and the kernels are not imported."""
    script = """
import sys, importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "triton" else real(name, *rest)
import torch, torch_gd
p = torch.ones(3, requires_grad=True)
for name in "SGD NAG SGDW Adagrad Adadelta RMSprop Adam AdamW Adamax NAdam RAdam Lion".split():
    p.grad = torch.ones(3)
    getattr(torch_gd, name)([p]).step()
assert "torch_gd.triton_kernels.launch" not in sys.modules
print("ok")
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.strip() == "ok", run.stderr


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
@pytest.mark.parametrize("clip", [None, torch_gd.ClipAdaptive(0.01), torch_gd.ClipByGlobalNorm(0.1)], ids=str)
def test_a_default_device_does_not_move_host_tables_or_counters(
    case: Case, clip: ClipPolicy | None, device: torch.device
) -> None:
    """A default device (here "meta", for users' "cuda") must not receive the tables and counters of the host."""
    ours, theirs = leaves(3, device), leaves(3, device)
    optimizer, expected = case.ours(ours, clip=clip), case.ours(theirs, clip=clip)
    for _ in range(3):
        with torch.device("meta"):
            optimizer.step()
        expected.step()
    for p, q in zip(ours, theirs):
        assert torch.equal(p, q)


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
def test_each_stream_has_a_plan_of_its_own(case: Case, triton_device: torch.device) -> None:
    """Memory freed on a stream may be reused there at once, so another stream must not read the same plan's tables."""

    class Streams(Runtime):
        current = 0

        def has_streams(self, device: torch.device) -> bool:
            return True

        def stream_on(self, device: torch.device) -> int:
            return self.current

    optimizer = case.ours(leaves(2, triton_device))
    assert isinstance(optimizer, torch_gd.FusedOptimizer)
    seen = []
    with runtime.use(Streams()):
        for Streams.current in (0, 0, 1, 1, 0, 1):
            optimizer.step()
            seen.append(optimizer._engine.plan)
    assert seen[1] is seen[4]
    assert seen[2] is seen[3] is seen[5]
    assert seen[1] is not seen[2]


def test_a_captured_graph_leaves_the_cache_of_chunk_maps_alone(
    triton_device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph reads its chunk map at each replay, so it gets a copy of its own; eager steps keep the cached one."""

    class Capturing(Runtime):
        def capturing(self) -> bool:
            return True

    from torch_gd.triton_kernels import table

    monkeypatch.setattr(table, "_CHUNK_MAPS", {})
    of_tensors = table.TensorTable([5, 3000], 1, triton_device)
    cached = of_tensors.chunks(1024)
    assert of_tensors.chunks(1024) is cached
    with runtime.use(Capturing()):
        captured = of_tensors.chunks(1024)
    assert torch.equal(captured, cached)
    assert captured.data_ptr() != cached.data_ptr()
    assert of_tensors.chunks(1024) is cached


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {"momentum": 0.9, "nesterov": 1, "maximize": 1}),
        ("Adam", {"amsgrad": 1, "maximize": 0}),
        ("AdamW", {"lr": np.array(0.1)}),
        ("Adagrad", {"maximize": 1, "lr": np.float32(0.1)}),
    ],
    ids=str,
)
def test_ints_as_bools_and_numpy_scalars_are_accepted(name: str, options: dict[str, Any], device: torch.device) -> None:
    """torch's default implementations accept such options, though its fused kernels insist on bools and floats."""
    ours, theirs = leaves(2, device), leaves(2, device)
    optimizer, reference = getattr(torch_gd, name)(ours, **options), getattr(torch.optim, name)(theirs, **options)
    for _ in range(3):
        optimizer.step()
        reference.step()
    for p, q in zip(ours, theirs):
        # A few roundings a step, of parameters of up to 4.
        torch.testing.assert_close(p, q, rtol=0, atol=3 * 16 * torch.finfo(torch.float32).eps)
