"""Clipping: functions that match torch's, and policies in the step that match clipping before the step."""

import copy
import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from catalogue import PLAIN_CASES, Case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_parity import laid_out, layouts
from torch import Tensor

import torch_gd
from torch_gd import ClipAdaptive, ClipByGlobalNorm, ClipByValue
from torch_gd._engine import backend
from torch_gd.clipping import ClipPolicy

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
POLICIES = [
    ClipByGlobalNorm(1.0),
    ClipByGlobalNorm(0.1, norm_type=1.0),
    ClipByGlobalNorm(0.1, norm_type=0.5),
    ClipByGlobalNorm(0.5, norm_type=math.inf),
    ClipByGlobalNorm(1e6),
    ClipByValue(0.3),
    ClipAdaptive(0.02),
]


def clip_first(params: list[Tensor], policy: ClipPolicy) -> Tensor | None:
    """Clip gradients as a user without policies does, before the step; return the norm if there is one."""
    if isinstance(policy, ClipByGlobalNorm):
        full = [p for p in params if p.numel()]  # torch has no infinity norm of an empty tensor
        return torch.nn.utils.clip_grad_norm_(full, policy.max_norm, policy.norm_type)
    if isinstance(policy, ClipByValue):
        torch.nn.utils.clip_grad_value_(params, policy.clip_value)
    if isinstance(policy, ClipAdaptive):
        clip_unit_by_unit(params, policy.clipping, policy.eps)
    return None


def clip_unit_by_unit(params: list[Tensor], clipping: float, eps: float) -> None:
    """Clip by equation 3 of Brock et al. (2021), one unit at a time."""
    for p in params:
        if p.grad is not None and p.numel():
            weights, gradients = (t.detach().reshape(len(t) if t.dim() > 1 else 1, -1) for t in (p, p.grad))
            for weight, gradient in zip(weights, gradients):
                most = clipping * max(weight.norm().item(), eps)
                if gradient.norm().item() > most:
                    gradient.mul_(most / gradient.norm().item())
            p.grad.copy_(gradients.reshape(p.shape))


# --- Functions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norm_type", [0.5, 1.0, 2.0, 3.0, math.inf, 2, "inf"])
def test_total_norm(norm_type: float, dtype: torch.dtype, device: torch.device) -> None:
    """The norm is that of a float64 computation, for half precision too; on torch's route it is torch's own."""
    torch.manual_seed(0)
    tensors = [t for t in layouts(dtype, device).values() if t.numel() or norm_type not in (math.inf, "inf")]
    found = torch_gd.get_total_norm(tensors, norm_type)
    if not backend.serves(tensors[0]):
        assert torch.equal(found, torch.nn.utils.get_total_norm(tensors, norm_type))
        return
    exact = torch.linalg.vector_norm(torch.cat([t.double().flatten() for t in tensors]), float(norm_type))
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert found.device == tensors[0].device
    assert found.dim() == 0
    # A lane adds 16 terms at most and lanes are added in double: 16 half-ulps of float32 are 1e-6.
    torch.testing.assert_close(found.double(), exact, rtol=1e-13 if dtype == torch.float64 else 1e-6, atol=0)


def test_a_hundred_million_elements(triton_device: torch.device) -> None:
    """The norm of 10⁸ bfloat16 elements (10⁶ if interpreted) is accurate, and the same each time."""
    count = 10**8 if triton_device.type == "cuda" else 10**6
    torch.manual_seed(0)
    tensor = torch.randn(count, device=triton_device).to(torch.bfloat16)
    first = torch_gd.get_total_norm(tensor)
    exact = torch.linalg.vector_norm(tensor, dtype=torch.float64)
    assert abs(first.item() / exact.item() - 1) < 1e-6
    assert torch.equal(first, torch_gd.get_total_norm(tensor))


@pytest.mark.parametrize("norm_type", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_norm_that_is_not_finite(norm_type: float, bad: float, device: torch.device) -> None:
    tensors = [torch.ones(3, device=device), torch.tensor([1.0, bad], device=device)]
    theirs = torch.nn.utils.get_total_norm(tensors, norm_type)
    torch.testing.assert_close(torch_gd.get_total_norm(tensors, norm_type), theirs, equal_nan=True)
    with pytest.raises(RuntimeError, match="non-finite"):
        torch_gd.get_total_norm(tensors, norm_type, error_if_nonfinite=True)


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_clip_grad_norm(max_norm: float, device: torch.device) -> None:
    torch.manual_seed(0)
    ours = [t.requires_grad_() for t in layouts(torch.float32, device).values()]
    theirs = [t.detach().clone().requires_grad_() for t in ours]
    for p, q in zip(ours, theirs):
        p.grad = torch.randn_like(p)
        q.grad = p.grad.clone()
    found = torch_gd.clip_grad_norm_((p for p in ours), max_norm)
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    for p, q in zip(ours, theirs):
        torch.testing.assert_close(p.grad, q.grad, rtol=2e-6, atol=0)


UNWRITABLE = {  # what torch finds only as it writes, with the text that it has for it
    "inference": "Inplace update to inference tensor outside InferenceMode is not allowed",
    "expanded": "unsupported operation: more than one element of the written-to tensor refers to a single memory",
    "zero tensor": "ZeroTensors are immutable",
    "integer": "Expected a floating point or complex tensor",
    "8 bits": "Expected a floating point or complex tensor",
    "sparse": "Sparse layouts are not supported",
    "complex": "Complex types are not supported",
}


def unwritable(kind: str) -> Tensor:
    """Return a gradient, of elements 5 mostly, that some functions cannot write."""
    with torch.inference_mode(kind == "inference"):
        five = torch.full((3,), 5.0)
    changed = {
        "inference": lambda: five,
        "expanded": lambda: five[:1].expand(3),
        "zero tensor": lambda: torch._efficientzerotensor(3),
        "integer": five.long,
        "8 bits": lambda: five.to(torch.float8_e4m3fn),
        "sparse": five.to_sparse,
        "complex": five.cfloat,
    }
    return changed[kind]()


FUNCTIONS = {
    "clip_grad_norm_": lambda params: torch_gd.clip_grad_norm_(params, 1.0),
    "clip_grad_norm_, foreach=False": lambda params: torch_gd.clip_grad_norm_(params, 1.0, foreach=False),
    "clip_grads_with_norm_": lambda params: torch_gd.clip_grads_with_norm_(params, 1.0, torch.tensor(9.0)),
    "clip_grad_value_": lambda params: torch_gd.clip_grad_value_(params, 1.0),
    "clip_grad_adaptive_": lambda params: torch_gd.clip_grad_adaptive_(params),
}
TAKEN = {  # what can be scaled, though not measured or clamped
    ("complex", "clip_grad_norm_"),
    ("complex", "clip_grad_norm_, foreach=False"),
    ("complex", "clip_grads_with_norm_"),
    ("sparse", "clip_grads_with_norm_"),
}


class HasGradient:
    """In place of a parameter, since a parameter checks its gradient."""

    def __init__(self, grad: Tensor | None) -> None:
        self.grad = grad
        self.shape = (3,) if grad is None else grad.shape
        self.device = torch.device("cpu")


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("kind", UNWRITABLE)
def test_functions_change_nothing_if_they_cannot_change_everything(kind: str, function: str) -> None:
    grads = [torch.full((3,), 5.0), None, unwritable(kind), torch.full((2,), 5.0).double()]
    params = list(map(HasGradient, grads))
    if (kind, function) in TAKEN:
        FUNCTIONS[function](params)
        return
    with pytest.raises(RuntimeError, match=f"{UNWRITABLE[kind]}.*: the gradient of parameter 2, of shape"):
        FUNCTIONS[function](params)
    assert all((g == 5).all() for g in (grads[0], grads[3]))


NORMS = {"get_total_norm": torch_gd.get_total_norm, "tensor_norms": torch_gd.clipping.tensor_norms}
WRONG_CALLS: list[tuple[str, str, object]] = [
    *((name, "parameters", lambda p, f=f: f(p)) for name, f in FUNCTIONS.items()),
    *((name, "tensors", lambda p, f=f: f(p)) for name, f in NORMS.items()),
]


@pytest.mark.parametrize(("function", "named", "call"), WRONG_CALLS)
def test_what_is_no_iterable_of_tensors_is_named(function: str, named: str, call: Callable[[Any], Any]) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    named_parameters = list(model.named_parameters())
    for wrong in (None, model, model[0], torch.nn.Linear, 1.0, "ab", [None], named_parameters, dict(named_parameters)):
        with pytest.raises(TypeError, match=f"Invalid {named}: .*; pass tensors, such as model.parameters"):
            call(wrong)


NO_FLOATS: list[Any] = [None, "a", [1.0], 1j, abs, torch.nn.Linear, torch.ones(2)]
NUMBERS: list[tuple[str, str, Callable[[Any, Any], Any]]] = [
    ("clip_grad_norm_", "max_norm", lambda module, x: module.clip_grad_norm_(torch.ones(2), x)),
    ("clip_grad_norm_", "norm_type", lambda module, x: module.clip_grad_norm_(torch.ones(2), 1.0, x)),
    ("get_total_norm", "norm_type", lambda module, x: module.get_total_norm(torch.ones(2), x)),
    ("clip_grad_value_", "clip_value", lambda module, x: module.clip_grad_value_([HasGradient(torch.ones(2))], x)),
    ("clip_grads_with_norm_", "max_norm", lambda m, x: m.clip_grads_with_norm_(torch.ones(2), x, torch.ones(()))),
]


@pytest.mark.parametrize(("function", "named", "call"), NUMBERS)
def test_a_number_that_is_none_is_named_and_what_torch_takes_is_taken(
    function: str, named: str, call: Callable[[Any, Any], Any]
) -> None:
    for wrong in NO_FLOATS:
        with pytest.raises((TypeError, ValueError)) as theirs:
            call(torch.nn.utils, wrong)
        with pytest.raises(type(theirs.value), match=f"Invalid {named}: .*; {named} must be a number"):
            call(torch_gd, wrong)
    for right in (1, "1.0", True, torch.ones(1), -1.0):
        call(torch_gd, right)


def test_wrong_arguments_of_our_own_functions_are_named() -> None:
    for name, index in (("clipping", 0), ("eps", 1)):
        for wrong in ("a", None, True, -1.0, math.nan, math.inf, torch.ones(2)):
            with pytest.raises((TypeError, ValueError), match=f"Invalid {name}: "):
                torch_gd.clip_grad_adaptive_([], *(wrong if i == index else 0.1 for i in range(2)))
    with pytest.raises(TypeError, match=r"Invalid total_norm: 1\.0; pass the tensor"):
        torch_gd.clip_grads_with_norm_([torch.ones(2)], 1.0, 1.0)


def test_a_generator_that_has_been_used_warns_as_in_torch() -> None:
    used = torch.nn.Linear(2, 2).parameters()
    list(used)
    for module in (torch_gd, torch.nn.utils):
        with pytest.warns(UserWarning, match="is an empty generator, no gradient clipping will occur") as caught:
            module.clip_grad_norm_(used, 1.0)
        assert caught[0].filename == __file__


def test_what_cannot_be_measured_is_named() -> None:
    for kind in ("integer", "8 bits", "sparse"):
        with pytest.raises(RuntimeError, match=f"{UNWRITABLE[kind]}: item 1 of tensors, of shape"):
            torch_gd.get_total_norm([torch.ones(2), unwritable(kind)])


def test_nothing_to_clip(device: torch.device) -> None:
    assert torch_gd.get_total_norm([]).item() == 0
    assert torch_gd.clip_grad_norm_([torch.ones(2, device=device)], 1.0).item() == 0
    torch_gd.clip_grad_value_([torch.ones(2, device=device)], 1.0)


def test_clip_grad_adaptive_matches_timm(device: torch.device) -> None:
    pytest.importorskip("torchvision_on_cpu", exc_type=ImportError)  # timm needs torchvision to import
    torch.manual_seed(0)
    ours = [t.requires_grad_() for t in layouts(torch.float32, device).values()]
    theirs = [t.detach().clone().requires_grad_() for t in ours]
    for p, q in zip(ours, theirs):
        p.grad = torch.randn_like(p)
        q.grad = p.grad.clone()
    pytest.importorskip("timm", exc_type=ImportError)
    from timm.utils.agc import adaptive_clip_grad

    torch_gd.clip_grad_adaptive_(ours, clipping=0.05, eps=1e-3)
    adaptive_clip_grad(theirs, clip_factor=0.05, eps=1e-3)
    for p, q in zip(ours, theirs):
        torch.testing.assert_close(p.grad, q.grad, rtol=2e-6, atol=0)


# --- Policies in the step -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize(
    ("case", "dtype"),
    [*((case, torch.float32) for case in PLAIN_CASES), (Case("AdamW"), torch.float64)],  # clipping knows no rule
    ids=str,
)
def test_a_policy_equals_clipping_first(
    case: Case, policy: ClipPolicy, dtype: torch.dtype, device: torch.device
) -> None:
    """A policy in the step gives what clipping before the step gives.

    The tolerance is the parity tests', plus 16 ulps of the gradient for the norm, which scales every update.
    """
    torch.manual_seed(0)
    values = layouts(dtype, device)
    names = list(values)
    ours = [value.requires_grad_() for value in values.values()]
    theirs = [p.detach().clone(memory_format=torch.contiguous_format).requires_grad_() for p in ours]
    optimizer = case.ours([{"params": ours[:5]}, {"params": ours[5:], "lr": 0.02}], clip=policy)
    reference = case.reference([{"params": theirs[:5]}, {"params": theirs[5:], "lr": 0.02}], foreach=False)
    for step in range(4):
        for i, (name, p, q) in enumerate(zip(names, ours, theirs)):
            present = (step + i) % 5 != 2
            q.grad = torch.randn(q.shape, dtype=torch.float64).to(device, dtype) if present else None
            p.grad = laid_out(name, q.grad) if present else None
        kept = [None if p.grad is None else p.grad.clone() for p in ours]
        flat = torch.cat([p.grad.double().flatten() for p in theirs if p.grad is not None])
        optimizer.step()
        clip_first(theirs, policy)
        reference.step()
        if backend.serves(ours[0]):
            assert all(k is None or torch.equal(p.grad, k) for p, k in zip(ours, kept))
        if isinstance(policy, ClipByGlobalNorm):
            exact = torch.linalg.vector_norm(flat, policy.norm_type)
            # On torch's route the norm is torch's, which is less exact.
            rtol = 1e-13 if dtype == torch.float64 else 1e-6 if backend.serves(ours[0]) else 1e-5
            torch.testing.assert_close(optimizer.last_norm.double(), exact, rtol=rtol, atol=0)
        for name, p, q in zip(names, ours, theirs):
            torch.testing.assert_close(
                p.detach(),
                q.detach(),
                rtol=0,
                atol=(step + 1) * 32 * torch.finfo(dtype).eps * (1 + q.detach().abs().max().item() if q.numel() else 1),
                msg=lambda message, name=name: f"{name}: {message}",
            )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("policy", [ClipByGlobalNorm(0.5), ClipByValue(0.3), ClipAdaptive(0.02)], ids=str)
def test_half_precision_clips_in_float32(policy: ClipPolicy, dtype: torch.dtype, triton_device: torch.device) -> None:
    """The clipped gradient is never rounded to half precision."""
    torch.manual_seed(0)
    p = torch.randn(50, 40, device=triton_device).to(dtype).requires_grad_()
    wide = p.detach().float().requires_grad_()
    p.grad = torch.randn_like(p)
    wide.grad = p.grad.float()
    torch_gd.SGD([p], lr=1.0, clip=policy).step()
    clip_first([wide], policy)
    torch.optim.SGD([wide], lr=1.0).step()
    half_ulp = torch.finfo(dtype).eps / 2 * wide.abs().clamp(min=torch.finfo(dtype).tiny)
    assert torch.all((p.float() - wide).abs() <= half_ulp * (1 + 1e-3) + 1e-7)


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
def test_skip_nonfinite(case: Case, device: torch.device) -> None:
    """A step with a non-finite gradient changes no parameter, state or counter, and is counted as skipped."""
    torch.manual_seed(0)
    ours = [torch.randn(5, device=device).requires_grad_() for _ in range(2)]
    theirs = [p.detach().clone().requires_grad_() for p in ours]
    optimizer = case.ours(ours, clip=ClipByGlobalNorm(1.0, skip_nonfinite=True))
    reference = case.reference(theirs, foreach=False)
    for step in range(6):
        bad = step in (1, 4)
        for p, q in zip(ours, theirs):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        if bad:
            ours[1].grad[2] = math.nan if step == 1 else math.inf
        optimizer.step()
        if not bad:
            torch.nn.utils.clip_grad_norm_(theirs, 1.0)
            reference.step()
        for p, q in zip(ours, theirs):
            torch.testing.assert_close(p, q, rtol=0, atol=(step + 1) * 64 * torch.finfo(torch.float32).eps)
    assert optimizer.skipped_steps.item() == 2
    for p, q in zip(ours, theirs):
        if "step" in reference.state.get(q, {}):
            assert optimizer.state[p]["step"].item() == reference.state[q]["step"].item() == 4


@pytest.mark.parametrize("policy", [ClipByGlobalNorm(0.01), ClipByValue(0.02), ClipAdaptive(0.02)], ids=str)
@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
@pytest.mark.parametrize("unscale", [False, True])
def test_with_a_grad_scaler(case: Case, policy: ClipPolicy, unscale: bool, device: torch.device) -> None:
    """A step unscales, clips and updates, whether or not the user has unscaled, and is skipped when torch's is."""
    start = torch.tensor([[1.0, -2.0, 0.5], [0.1, 0.2, 0.3]], device=device)
    found = []
    for mine in (True, False):
        p = start.clone().requires_grad_()
        optimizer = case.ours([p], clip=policy) if mine else case.reference([p], foreach=False)
        assert getattr(optimizer, "_step_supports_amp_scaling", False) is mine
        scaler = torch.amp.GradScaler(device.type, init_scale=2.0**10, growth_interval=2)
        seen = []
        for step in range(6):
            optimizer.zero_grad()
            scaler.scale((p.square() * (3e38 if step == 2 else 1.0)).sum() * 0.1).backward()
            if unscale or not mine:
                scaler.unscale_(optimizer)
            if not mine:
                clip_first([p], policy)
            scaler.step(optimizer)
            scaler.update()
            seen.append((scaler.get_scale(), p.detach().clone()))
        found.append((seen, optimizer.state[p].get("step")))
    for step, (one, other) in enumerate(zip(found[0][0], found[1][0])):
        assert one[0] == other[0]
        torch.testing.assert_close(one[1], other[1], rtol=0, atol=(step + 1) * 16 * torch.finfo(torch.float32).eps)
    if found[1][1] is not None:
        assert found[0][1].item() == found[1][1].item() == 5


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_a_policy_survives_copying_saving_and_loading(policy: ClipPolicy, device: torch.device) -> None:
    p = torch.ones(3, device=device).requires_grad_()
    optimizer = torch_gd.AdamW([p], clip=policy)
    assert copy.deepcopy(optimizer).clip == policy
    assert pickle.loads(pickle.dumps(optimizer)).clip == policy
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other = torch_gd.AdamW([p])
    other.load_state_dict(state)
    assert other.clip == policy
    torch.optim.AdamW([p]).load_state_dict(state)
    optimizer.load_state_dict(torch.optim.AdamW([p]).state_dict())
    assert optimizer.clip == policy
    optimizer.add_param_group({"params": [torch.ones(2, device=device).requires_grad_()]})
    assert optimizer.clip == policy


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: ClipByGlobalNorm(0.0), "max_norm"),
        (lambda: ClipByGlobalNorm(math.nan), "max_norm"),
        (lambda: ClipByGlobalNorm(1.0, norm_type=-1.0), "norm_type"),
        (lambda: ClipByValue(-1.0), "clip_value"),
        (lambda: ClipAdaptive(-0.1), "clipping"),
        (lambda: ClipAdaptive(0.1, eps=-1.0), "eps"),
        (lambda: ClipPolicy.from_state_dict({"name": "Other"}), "Other"),
        (lambda: torch_gd.SGD([torch.ones(1)], l1=-1.0), "l1"),
    ],
)
def test_bad_input(make: object, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make()  # type: ignore[operator]  # one of the lambdas above


@pytest.mark.parametrize("route", [{}, {"foreach": False}], ids=["one route", "two routes"])
def test_one_norm_over_all_groups_and_dtypes(route: dict[str, bool], device: torch.device) -> None:
    """One norm covers all groups and dtypes, even if torch updates some of the tensors and our kernels the others."""
    torch.manual_seed(0)
    wide = [torch.randn(4, 3, device=device).requires_grad_() for _ in range(3)]
    narrow = [torch.randn(5, device=device).to(torch.bfloat16).requires_grad_() for _ in range(2)]
    for p in (*wide, *narrow):
        p.grad = torch.randn_like(p)
    exact = torch.linalg.vector_norm(torch.cat([p.grad.double().flatten() for p in (*wide, *narrow)]))
    before = [p.detach().double() for p in wide]
    gradients = [p.grad.double() for p in wide]
    optimizer = torch_gd.SGD(
        [{"params": wide[:1], **route}, {"params": wide[1:]}, {"params": narrow}], lr=1.0, clip=ClipByGlobalNorm(0.5)
    )
    optimizer.step()
    on_torch = not backend.serves(wide[0])
    tolerance = 4 * torch.finfo(torch.bfloat16).eps if on_torch else 1e-6  # torch rounds a bfloat16 norm to bfloat16
    torch.testing.assert_close(optimizer.last_norm.double(), exact, rtol=tolerance, atol=0)
    for p, b, g in zip(wide, before, gradients):
        torch.testing.assert_close(p.detach().double(), b - g * 0.5 / exact, rtol=0, atol=0.5 * tolerance + 1e-6)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shapes=st.lists(st.lists(st.integers(0, 7), max_size=3), min_size=1, max_size=4),
    dtype=st.sampled_from(DTYPES),
    norm_type=st.sampled_from([0.5, 1.0, 2.0, math.inf]),
    bad=st.sampled_from([0.0, math.nan, math.inf]),
    seed=st.integers(0, 2**31),
)
def test_clipping_of_arbitrary_tensors(
    shapes: list[list[int]], dtype: torch.dtype, norm_type: float, bad: float, seed: int, triton_device: torch.device
) -> None:
    """The norm is that of float64, NaN and Inf included, and the update is by the clipped gradient."""
    generator = torch.Generator().manual_seed(seed)
    params = [torch.randn(shape, generator=generator).to(triton_device, dtype).requires_grad_() for shape in shapes]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator).to(triton_device, dtype)
    if bad and params[0].numel():
        params[0].grad.view(-1)[0] = bad
    flat = torch.cat([p.grad.double().flatten() for p in params])
    exact = torch.linalg.vector_norm(flat, norm_type) if flat.numel() else torch.zeros((), dtype=torch.float64)
    before = [p.detach().clone() for p in params]
    optimizer = torch_gd.SGD(params, lr=1.0, clip=ClipByGlobalNorm(0.5, norm_type))
    optimizer.step()
    # On a GPU exp and log are within a few ulps, and a norm of order 0.5 squares their result: 2e-6 is 17 ulps.
    torch.testing.assert_close(optimizer.last_norm.cpu(), exact.cpu(), rtol=2e-6, atol=0, equal_nan=True)
    coefficient = min(0.5 / (exact.item() + 1e-6), 1.0) if not math.isnan(exact.item()) else math.nan
    for p, b in zip(params, before):
        expected = b.double() - p.grad.double() * coefficient
        torch.testing.assert_close(
            p.detach().double(), expected, rtol=torch.finfo(dtype).eps + 2e-6, atol=4e-6, equal_nan=True
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_host_synchronisation() -> None:
    """A step that clips, may be skipped, and counts on the GPU makes no call that waits for the GPU."""
    params = [torch.randn(100, device="cuda").requires_grad_() for _ in range(5)]
    optimizer = torch_gd.AdamW(params, fused=True, clip=ClipByGlobalNorm(1.0, skip_nonfinite=True))
    for step in range(4):
        for p in params:
            p.grad = torch.randn_like(p)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error" if step else "default")
        try:
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


# --- L1 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
def test_l1_is_a_soft_threshold_after_the_update(case: Case, device: torch.device) -> None:
    """The threshold gives exact zeros, only in the groups that ask for it, and is torch's step otherwise."""
    torch.manual_seed(0)
    ours = [torch.randn(60, device=device).requires_grad_() for _ in range(2)]
    theirs = [p.detach().clone().requires_grad_() for p in ours]
    options = {"lr": 0.05}
    optimizer = case.ours([{"params": ours[:1], "l1": 2.0}, {"params": ours[1:]}], **options)
    reference = case.reference(theirs, foreach=False, **options)
    for step in range(8):
        for p, q in zip(ours, theirs):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        optimizer.step()
        reference.step()
        with torch.no_grad():
            theirs[0].copy_(theirs[0].sign() * (theirs[0].abs() - 0.05 * 2.0).clamp(min=0))
        for p, q in zip(ours, theirs):
            torch.testing.assert_close(p, q, rtol=0, atol=(step + 1) * 32 * torch.finfo(torch.float32).eps)
    assert (ours[0] == 0).any()
    assert not (ours[1] == 0).any()
    assert "l1" not in optimizer.state_dict()["param_groups"][1]


def test_gradients_with_torchs_negative_bit(device: torch.device) -> None:
    """torch may mark a tensor as negated and leave its memory as it is; clipping must respect the mark."""
    ours, theirs = [[torch.ones(3, device=device).requires_grad_() for _ in range(2)] for _ in range(2)]
    ours[0].grad, ours[1].grad = torch._neg_view(torch.full((3,), 2.0, device=device)), torch.ones(3, device=device)
    theirs[0].grad, theirs[1].grad = torch.full((3,), -2.0, device=device), torch.ones(3, device=device)
    norm = torch_gd.clip_grad_norm_(ours, 1.0)
    expected = torch.nn.utils.clip_grad_norm_(theirs, 1.0)
    torch.testing.assert_close(norm, expected, rtol=1e-6, atol=0)
    for p, q in zip(ours, theirs):
        torch.testing.assert_close(p.grad, q.grad, rtol=2e-6, atol=0)
    for module, params in ((torch_gd, ours), (torch.nn.utils, theirs)):
        module.clip_grads_with_norm_(params, 1.0, torch.tensor(4.0, device=device))
        module.clip_grad_value_(params, 0.1)
    for p, q in zip(ours, theirs):
        torch.testing.assert_close(p.grad, q.grad, rtol=4e-6, atol=0)


def test_gradients_with_torchs_conjugate_bit() -> None:
    ours, theirs = [[HasGradient(torch.full((2,), 3 + 4j)), HasGradient(torch.ones(2))] for _ in range(2)]
    ours[0].grad = torch.full((2,), 3 - 4j).conj()
    torch_gd.clip_grad_norm_(ours, 1.0)  # type: ignore[arg-type]
    torch_gd.clip_grads_with_norm_(ours, 1.0, torch.tensor(2.0))  # type: ignore[arg-type]
    torch.nn.utils.clip_grad_norm_(theirs, 1.0)  # type: ignore[arg-type]
    torch.nn.utils.clip_grads_with_norm_(theirs, 1.0, torch.tensor(2.0))  # type: ignore[arg-type]
    for p, q in zip(ours, theirs):
        torch.testing.assert_close(p.grad, q.grad, rtol=4e-6, atol=0)
