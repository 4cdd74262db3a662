"""`torch_gd.Precision`: every optimizer, stored in every way, steps as in float32 but for one rounding."""

from typing import Any

import pytest
import torch
from catalogue import Case
from conftest import WithoutKernels
from stored_bounds import MODES, give_gradients, gradient, limit, stored_values, weights
from test_parity import laid_out, layouts
from torch import Tensor

import torch_gd
from torch_gd import Precision
from torch_gd.triton_kernels.runtime import use

BF16, FP32 = torch.bfloat16, torch.float32
CASES = [
    Case("SGD"),
    Case("SGD", {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    Case("SGDW", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    Case("NAG"),
    Case("Adagrad", {"lr_decay": 0.1}),
    Case("Adadelta", {"lr": 0.5}),
    Case("RMSprop", {"momentum": 0.9}),
    Case("Adam", {"weight_decay": 0.1}),
    Case("AdamW"),
    Case("Adamax"),
    Case("NAdam"),
    Case("RAdam"),
    Case("Lion", {"weight_decay": 0.1}),
    Case("LAMB"),
    Case("LARS"),
]


@pytest.fixture
def by_kernels(device: torch.device, request: pytest.FixtureRequest) -> bool:
    """Return whether this is the route of our kernels."""
    return bool(request.node.callspec.params["device"] == "triton")


def step_together(optimizer: Any, ours: list[Tensor], reference: Any, theirs: list[Tensor]) -> None:
    """Take three steps with equal gradients, which `theirs` have in float32."""
    for step in range(3):
        give_gradients(ours, step)
        for p, q in zip(ours, theirs):
            q.grad = gradient(p).to(q.device)
        optimizer.step()
        reference.step()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sixteen_more_bits_train_as_float32(case: Case, device: torch.device, by_kernels: bool) -> None:
    """The same kernels, or torch's same functions, over float32: bit for bit, after every step."""
    ours = weights(BF16, device)
    theirs = [p.detach().float().requires_grad_() for p in ours]
    same = {} if by_kernels else {"foreach": False}  # or plain float32 would take torch's fused kernel
    optimizer = case.ours(ours, precision=Precision("bf16+16", min_elements=1), **same)
    reference = case.ours(theirs, **same)
    step_together(optimizer, ours, reference, theirs)
    for p, q in zip(ours, theirs):
        expected = {"": q.detach(), **{name: x for name, x in reference.state[q].items() if x.shape == q.shape}}
        for name, value in stored_values(optimizer, p).items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=0)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_step_is_one_rounding_away_from_float32(case: Case, device: torch.device, by_kernels: bool) -> None:
    """Each step is compared with torch's in float32 from the same values, as they are stored.

    So weights and states are apart by one rounding, of which `limit` knows the largest, and by the arithmetic: a dozen
    operations, each within half an ulp (two where division and root are approximate) of the largest that it has seen.
    """
    for mode in MODES if case.name in ("AdamW", "LAMB") or not by_kernels else MODES[2:3]:
        ours = weights(mode.dtype, device)
        optimizer = case.ours(ours, precision=mode.precision)
        for step in range(2):
            give_gradients(ours, step)
            before = [stored_values(optimizer, p) for p in ours]
            theirs = [values.pop("").cpu().requires_grad_() for values in before]
            starts = [q.detach().clone() for q in theirs]
            with use(WithoutKernels()):
                reference = case.ours(theirs, foreach=False)
                for p, q, values in zip(ours, theirs, before):
                    q.grad = gradient(p)
                    counters = {key: x for key, x in optimizer.state[p].items() if key in ("step", "mu_product")}
                    for name, value in {**values, **counters}.items():
                        reference.state[q][name] = value.cpu().clone()
                reference.step()
            optimizer.step()
            for p, q, start in zip(ours, theirs, starts):
                size = gradient(p).abs().maximum(gradient(p).square())
                for name, found in stored_values(optimizer, p).items():
                    expected = reference.state[q][name] if name else q.detach()
                    seen = size + expected.abs() if name else start.abs() + (expected - start).abs()
                    allowed = limit(optimizer, p, name, expected) + 24 * torch.finfo(FP32).eps * seen
                    assert ((found.cpu() - expected).abs() <= allowed).all(), (str(mode), name, step)


def test_layouts(device: torch.device, by_kernels: bool) -> None:
    """Views, strides, misaligned and empty tensors give the float32 values, and nothing else is written to."""
    torch.manual_seed(0)
    params = layouts(BF16, device)
    ours = [p.requires_grad_() for p in params.values()]
    theirs = [p.detach().float().contiguous().requires_grad_() for p in ours]
    base = params["strided view"]._base
    assert base is not None
    surroundings, foreach = base.clone(), None if by_kernels else False
    optimizer = torch_gd.AdamW(ours, lr=0.1, precision=Precision("bf16+16", min_elements=1), foreach=foreach)
    reference = torch_gd.AdamW(theirs, lr=0.1, foreach=foreach)
    for step in range(2):
        for i, (kind, p, q) in enumerate(zip(params, ours, theirs)):
            g = torch.randn(p.shape).to(device, BF16)
            p.grad, q.grad = (None, None) if (step, i) == (1, 2) else (laid_out(kind, g), g.float())
        optimizer.step()
        reference.step()
    for kind, p, q in zip(params, ours, theirs):
        found = stored_values(optimizer, p)[""]
        torch.testing.assert_close(found, q.detach(), rtol=0, atol=0, msg=kind)
    torch.testing.assert_close(base.view(4, 10)[:, 1::2], surroundings.view(4, 10)[:, 1::2], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64], ids=str)
def test_other_dtypes_are_left_alone(dtype: torch.dtype, device: torch.device) -> None:
    found = []
    for precision in (None, Precision("bf16+8", "8bit", min_elements=1)):
        p = torch.linspace(-1, 1, 64, dtype=dtype, device=device).requires_grad_()
        optimizer = torch_gd.AdamW([p], precision=precision)
        for _ in range(2):
            p.grad = torch.ones_like(p)
            optimizer.step()
        found.append((p.detach(), optimizer.state[p]["exp_avg_sq"], len(optimizer.state[p])))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


@pytest.mark.parametrize("clip", [1.0, torch_gd.ClipByValue(0.1), torch_gd.ClipAdaptive(0.1)], ids=repr)
def test_clipping_and_l1(clip: Any, device: torch.device) -> None:
    """A clipped step with L1 gives float32's values.

    A global norm is summed in another order, which makes 17 ulps. Adaptive clipping measures the bfloat16 weights, that
    are rounded by 2⁻⁹, and m / √v, where in three steps |m| sums up to √3 of √v at most, doubles that twice.
    """
    ours = weights(BF16, device)
    theirs = [p.detach().float().requires_grad_() for p in ours]
    optimizer = torch_gd.AdamW(ours, lr=0.01, clip=clip, l1=0.1, precision=Precision("bf16+16", min_elements=1))
    reference = torch_gd.AdamW(theirs, lr=0.01, clip=clip, l1=0.1)
    step_together(optimizer, ours, reference, theirs)
    rounding = 2.0**-7 if isinstance(clip, torch_gd.ClipAdaptive) else 20 * 2.0**-23
    for p, q in zip(ours, theirs):
        found = stored_values(optimizer, p)[""]
        torch.testing.assert_close(found, q.detach(), rtol=1e-6, atol=3 * 0.01 * rounding)
