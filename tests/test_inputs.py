"""Bad input is refused as early as possible, with torch's error type and a name; unusual but valid input works."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from catalogue import PLAIN_CASES, Case, torch_class
from torch import Tensor

import torch_gd
from torch_gd._engine import backend

NAMES = ["SGD", "NAG", "Adagrad", "RMSprop", "Adam", "AdamW", "Adadelta", "Adamax", "NAdam", "RAdam"]


def leaf(*shape: int, device: torch.device | str = "cpu") -> Tensor:
    return torch.ones(shape, device=device).requires_grad_()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"lr": -0.1}, "lr"),
        ({"lr": float("nan")}, "lr"),
        ({"lr": torch.ones(2)}, None),
        ({"lr": torch.ones(1, 2)}, None),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"eps": -1e-8}, "eps"),
        ({"momentum": -0.5}, "momentum"),
        ({"alpha": -0.5}, "alpha"),
        ({"rho": -0.5}, "rho"),
        ({"rho": 1.5}, "rho"),
        ({"momentum_decay": -0.5}, "momentum_decay"),
        ({"lr_decay": -0.5}, "lr_decay"),
        ({"initial_accumulator_value": -0.5}, "initial_accumulator_value"),
        ({"betas": (1.0, 0.999)}, "betas[0]"),
        ({"betas": (0.9, -0.1)}, "betas[1]"),
        ({"betas": (0.9, torch.tensor(0.999))}, "betas"),
        ({"lr": torch.tensor(0.1), "foreach": True}, "lr"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_hyperparameters_out_of_range(name: str, options: dict[str, Any], named: str | None) -> None:
    """What torch refuses is refused with the same error type, and for SGD also a NaN, which torch lets through."""
    try:
        torch_class(name)([leaf(2)], **options)
    except TypeError:
        pytest.skip("not an argument of this optimizer")
    except ValueError:
        refused = True
    except RuntimeError:  # torch cannot compare a tensor of two elements with a bound
        pytest.skip("torch itself fails with it")
    else:
        refused = name in ("SGD", "NAG") and options["lr"] != options["lr"]
    if not refused:
        getattr(torch_gd, name)([leaf(2)], **options)
        return
    with pytest.raises(ValueError, match=re.escape(named) if named else "lr"):
        getattr(torch_gd, name)([leaf(2)], **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Lion", {"lr": -0.1}),
        ("Lion", {"betas": (1.0, 0.99)}),
        ("Lion", {"weight_decay": -1.0}),
        ("SGDW", {"momentum": -0.5}),
        ("SGDW", {"weight_decay": -1.0}),
    ],
    ids=str,
)
def test_hyperparameters_of_optimizers_that_torch_does_not_have(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(options))}\b.* must be"):
        getattr(torch_gd, name)([leaf(2)], **options)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.0}, {"momentum": 0.9, "dampening": 0.1}])
def test_nesterov_needs_momentum_and_no_dampening(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Nesterov momentum requires a momentum and zero dampening"):
        torch_gd.SGD([leaf(2)], nesterov=True, **options)


def test_nag_needs_momentum() -> None:
    with pytest.raises(ValueError, match="momentum"):
        torch_gd.NAG([leaf(2)], momentum=0.0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("params", "error"),
    [
        (list, ValueError),
        (lambda: leaf(2), TypeError),
        (lambda: [leaf(2) * 2], ValueError),
        (lambda: [1.0], TypeError),
        (lambda: [{"params": {leaf(2)}}], TypeError),
        (lambda: [("a", leaf(2)), leaf(2)], (ValueError, TypeError)),
    ],
    ids=["empty", "a tensor", "non-leaf", "not a tensor", "a set", "some named"],
)
def test_parameters_that_cannot_be_optimized(name: str, params: Callable[[], Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        torch_class(name)(params())
    with pytest.raises(error):
        getattr(torch_gd, name)(params())


@pytest.mark.parametrize("name", ["SGD", "NAG", "Adagrad", "Adam", "AdamW"])
@pytest.mark.parametrize("other", [{"foreach": True}, {"differentiable": True}])
def test_fused_with_foreach_or_differentiable_is_refused(name: str, other: dict[str, bool]) -> None:
    with pytest.raises(RuntimeError, match="`fused`"):
        getattr(torch_gd, name)([leaf(2)], fused=True, **other)


@pytest.mark.parametrize("name", ["SGD", "NAG", "Adagrad", "Adam", "AdamW"])
def test_fused_is_refused_for_a_parameter_it_cannot_update(name: str) -> None:
    """The error names the parameter, at construction and when a group is added; that group is then left out."""
    bad = torch.ones(3, dtype=torch.complex64).requires_grad_()
    with pytest.raises(RuntimeError, match=r"parameter 1 of group 0.*complex64.*`fused=True`"):
        getattr(torch_gd, name)([leaf(2), bad], fused=True)
    optimizer = getattr(torch_gd, name)([leaf(2)], fused=True)
    with pytest.raises(RuntimeError, match=r"parameter 0 of group 1 \('bad'\)|parameter 0 of group 1"):
        optimizer.add_param_group({"params": [bad]})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
def test_a_gradient_that_cannot_be_used_stops_the_step_before_anything_is_updated(
    case: Case, device: torch.device
) -> None:
    good, bad = leaf(3, device=device), torch.ones(4, dtype=torch.int64, device=device)
    optimizer = case.ours([("good", good), ("bad", bad)])
    good.grad = torch.ones_like(good)
    optimizer.step()
    before = good.detach().clone()
    bad.grad = torch.ones_like(bad)
    with pytest.raises(RuntimeError, match=r"parameter 1 of group 0 \('bad'\).*int64"):
        optimizer.step()
    assert torch.equal(good, before)


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
def test_a_gradient_of_another_shape(case: Case, device: torch.device) -> None:
    good, bad = leaf(3, device=device), leaf(4, 2, device=device)
    optimizer = case.ours([good, bad])
    good.grad, bad.grad = torch.ones_like(good), torch.ones_like(bad)
    optimizer.step()
    before = good.detach().clone()
    bad.data = bad.data[:2]
    with pytest.raises(RuntimeError, match=r"parameter 1 of group 0.*gradient of shape \(4, 2\)"):
        optimizer.step()
    assert torch.equal(good, before)


@pytest.mark.parametrize("case", [case for case in PLAIN_CASES if case.name not in ("SGD", "NAG", "Adagrad")], ids=str)
def test_sparse_gradients_are_refused_where_torch_refuses_them(case: Case, device: torch.device) -> None:
    good, bad = leaf(3, device=device), leaf(4, 2, device=device)
    optimizer = case.ours([good, bad])
    good.grad = torch.ones_like(good)
    bad.grad = torch.sparse_coo_tensor([[1]], torch.ones(1, 2), (4, 2), device=device)
    with pytest.raises(RuntimeError, match=r"^\w+ does not support sparse gradients.*parameter 1 of group 0"):
        optimizer.step()
    assert torch.equal(good, torch.ones_like(good))


def test_sparse_gradients_with_weight_decay(device: torch.device) -> None:
    p = leaf(4, 2, device=device)
    optimizer = torch_gd.Adagrad([p], weight_decay=0.1)
    p.grad = torch.sparse_coo_tensor([[1]], torch.ones(1, 2), (4, 2), device=device)
    with pytest.raises(RuntimeError, match="weight_decay option is not compatible with sparse gradients"):
        optimizer.step()


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
def test_a_parameter_that_overlaps_itself(case: Case, device: torch.device) -> None:
    p = torch.ones(3, 1, device=device).expand(3, 4).requires_grad_()
    optimizer = case.ours([p])
    p.grad = torch.ones(3, 4, device=device)
    with pytest.raises(RuntimeError, match=r"shares memory among its own elements.*clone"):
        optimizer.step()


def test_a_closure_that_is_none_is_named() -> None:
    p = leaf(2)
    with pytest.raises(TypeError, match=r"Invalid closure: a tensor of shape \(\) .* a function that returns the loss"):
        torch_gd.SGD([p]).step(p.sum())  # type: ignore[arg-type]  # which is the mistake


def set_dtypes(params: list[Tensor], dtype: torch.dtype, grad_dtype: torch.dtype) -> None:
    """Convert parameters as `model.half()` does, and give them gradients of a dtype of their own."""
    for i, p in enumerate(params):
        p.grad = None
        p.data = p.data.to(dtype)
        p.grad_dtype = grad_dtype
        p.grad = torch.linspace(-1, 1, p.numel()).to(grad_dtype) * (i + 1)


HALF, SINGLE = torch.float16, torch.float32


@pytest.mark.parametrize("foreach", [None, True], ids=["", "foreach"])
@pytest.mark.parametrize(
    ("before", "after"),
    [((HALF, HALF), (SINGLE, SINGLE)), ((SINGLE, SINGLE), (HALF, SINGLE)), ((SINGLE, SINGLE), (HALF, HALF))],
    ids=["half to float", "half parameters", "float to half"],
)
@pytest.mark.parametrize("case", [*PLAIN_CASES, Case("RMSprop", {}), Case("SGD", {"momentum": 0.9})], ids=str)
def test_dtypes_that_change_in_mid_training(
    case: Case,
    before: tuple[torch.dtype, torch.dtype],
    after: tuple[torch.dtype, torch.dtype],
    foreach: bool | None,
    torch_path: None,
) -> None:
    """Where torch goes on, so do we; where it fails in the middle of a step, we name the parameter before it."""
    if foreach and case.name == "Lion":
        pytest.skip("the reference has no foreach")
    ours, theirs = ([leaf(6) for _ in range(5)] for _ in range(2))
    optimizer, reference = case.ours(ours, foreach=foreach), case.reference(theirs, foreach=foreach)
    for params, one in ((ours, optimizer), (theirs, reference)):
        set_dtypes(params, *before)
        one.step()
        set_dtypes(params, *after)
    try:
        for _ in range(3):
            reference.step()
    except RuntimeError:
        start = [p.detach().clone() for p in ours]
        with pytest.raises(RuntimeError, match=r"parameter 0 of group 0.*(of one dtype only|the same dtype)"):
            optimizer.step()
        assert all(map(torch.equal, ours, start))
        return
    for _ in range(3):
        optimizer.step()
    # Both call the same implementation after the first step, whose values differ by a few roundings.
    tolerance = 4 * 16 * torch.finfo(HALF).eps
    for p, q in zip(ours, theirs):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "case", [case for case in PLAIN_CASES if case.name in ("Adam", "AdamW", "RMSprop", "NAdam")], ids=str
)
def test_mixed_dtypes_that_torch_refuses_are_refused_before_anything_is_updated(case: Case, torch_path: None) -> None:
    good, bad = leaf(3), leaf(4)
    bad.grad_dtype = torch.bfloat16
    good.grad, bad.grad = torch.ones(3), torch.ones(4, dtype=torch.bfloat16)
    with pytest.raises(RuntimeError, match=r"parameter 1 of group 0.*bfloat16"):
        case.ours([good, bad]).step()
    assert torch.equal(good, torch.ones(3))


def stepped(case: Case, device: torch.device) -> tuple[torch.optim.Optimizer, Tensor, Tensor]:
    """Return an optimizer that has taken a step, and its two parameters, which still have gradients."""
    first, second = leaf(3, device=device), leaf(4, device=device)
    optimizer = case.ours([first, second])
    for p in (first, second):
        p.grad = torch.ones_like(p)
    optimizer.step()
    return optimizer, first, second


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
def test_a_state_that_is_missing(case: Case, device: torch.device) -> None:
    """A state that torch would miss is named; one that it makes at the first step is made."""
    optimizer, first, second = stepped(case, device)
    for name in [name for name in optimizer.state[second] if name != "step"]:
        start, value = first.detach().clone(), optimizer.state[second].pop(name)
        if not optimizer.state[second]:  # a state of one tensor is then none
            optimizer.step()
            assert name in optimizer.state[second]
            continue
        with pytest.raises(RuntimeError, match=f"parameter 1 of group 0.*no state '{name}'"):
            optimizer.step()
        assert torch.equal(first, start)
        optimizer.state[second][name] = value
        optimizer.step()


@pytest.mark.parametrize("to", [torch.int64, torch.float8_e4m3fn, torch.complex64, torch.sparse_coo], ids=str)
@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
def test_a_state_of_another_kind(case: Case, to: torch.dtype | torch.layout, device: torch.device) -> None:
    optimizer, first, second = stepped(case, device)
    for name in [name for name in optimizer.state[second] if name != "step"]:
        start, value = first.detach().clone(), optimizer.state[second][name]
        optimizer.state[second][name] = value.to(to) if isinstance(to, torch.dtype) else value.to_sparse()
        with pytest.raises(RuntimeError, match=f"parameter 1 of group 0.*a state '{name}' of "):
            optimizer.step()
        assert torch.equal(first, start)
        optimizer.state[second][name] = value


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_gradients_do_what_they_do_in_torch(case: Case, value: float, device: torch.device) -> None:
    """NaN and Inf end up where they do in torch; a parameter at -inf, as in an attention mask, stays there."""
    ours, theirs = [leaf(4, device=device) for _ in range(2)]
    for p in (ours, theirs):
        p.data[0] = -float("inf")
    optimizer, reference = case.ours([ours]), case.reference([theirs], foreach=False)
    for step in range(3):
        for p in (ours, theirs):
            p.grad = torch.ones_like(p)
            p.grad[0] = 0
            p.grad[1] = value if step == 1 else 1.0
        optimizer.step()
        reference.step()
    torch.testing.assert_close(ours, theirs, rtol=3 * 4 * torch.finfo(torch.float32).eps, atol=0, equal_nan=True)
    assert ours[2:].isfinite().all()
    # For AMSGrad's maximum torch's fused CPU kernel ignores a NaN; torch's for-loop and our kernels keep it.
    for name, value in reference.state.get(theirs, {}).items() if backend.serves(ours) else ():
        torch.testing.assert_close(optimizer.state[ours][name], value, rtol=1e-5, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_beta1_of_zero_keeps_no_trace_of_a_gradient(name: str, triton_device: torch.device) -> None:
    """The formula for small weights, m + w (g - m), would give 0 for a gradient of 1 that follows one of 10⁸."""
    p = torch.zeros(3, device=triton_device).requires_grad_()
    optimizer = getattr(torch_gd, name)([p], betas=(0.0, 0.9))
    for value in (1e8, 1.0):
        p.grad = torch.full_like(p, value)
        optimizer.step()
    assert torch.equal(optimizer.state[p]["exp_avg"], torch.ones_like(p))
