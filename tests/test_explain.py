"""`explain` tells what the next step does, without doing any of it."""

import copy
from typing import Any

import pytest
import torch
from catalogue import LAYERWISE, PLAIN_CASES, Case, tensor

import torch_gd
from benchmarks.launches import counted
from torch_gd import ClipAdaptive, ClipByGlobalNorm, ClipByValue, ClipPolicy
from torch_gd._engine import backend
from torch_gd.triton_kernels import runtime


class Double(ClipPolicy):
    """A policy of a user's own."""

    def apply(self, params: Any, grads: Any) -> None:
        for g in grads:
            g.mul_(2)


def model_parameters(device: torch.device) -> list[torch.Tensor]:
    """Return parameters of two dtypes and a strided view."""
    torch.manual_seed(0)
    values = [torch.randn(3, 4), torch.randn(5), torch.randn(7).double(), torch.randn(2, 2), torch.randn(6, 6)[:, ::2]]
    return [value.to(device).requires_grad_() for value in values[:4]] + [values[4].to(device)[:, ::2].requires_grad_()]


def snapshot(optimizer: torch.optim.Optimizer) -> Any:
    """Return everything of an optimizer that a step may change, as copies."""
    params = [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]
    grads = [None if p.grad is None else p.grad.clone() for group in optimizer.param_groups for p in group["params"]]
    return params, grads, copy.deepcopy(optimizer.state_dict()["state"]), len(optimizer.state)


@pytest.mark.parametrize("clip", [None, ClipByGlobalNorm(1.0), ClipByValue(1.0), ClipAdaptive(), Double()], ids=str)
@pytest.mark.parametrize(
    "case", [*PLAIN_CASES, *LAYERWISE, Case("AdamW", {"fused": True}), Case("SGD", {"lr": tensor(0.1)})], ids=str
)
def test_launches_and_elements_are_those_of_the_step(case: Case, clip: ClipPolicy | None, device: torch.device) -> None:
    """Before the first step, which makes states, and after it. Interpreted, launches are counted but not made."""
    params = model_parameters(device)
    optimizer = case.ours([{"params": params[:2]}, {"params": params[2:], "lr": 0.5}], clip=clip)
    for p in params[1:]:
        p.grad = torch.randn_like(p)
    for _ in range(3):
        before = snapshot(optimizer)
        explanation = torch_gd.explain(optimizer)
        torch.testing.assert_close(snapshot(optimizer), before, rtol=0, atol=0)
        with counted(make=not backend.interpreted()) as launches:
            optimizer.step()
        assert explanation.launches == sum(launches.values())
        assert {batch.route for batch in explanation.batches if batch.reason == "no gradient"} == {"left out"}
        assert sum(batch.elements for batch in explanation.batches) == sum(p.numel() for p in params)


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
def test_before_the_first_backward_pass(case: Case, device: torch.device) -> None:
    """It predicts what holds once there are gradients."""
    params = model_parameters(device)
    optimizer = case.ours(params)
    predicted = torch_gd.explain(optimizer)
    assert not any(optimizer.state.values()) or case.name == "Adagrad"
    for p in params:
        p.grad = torch.zeros_like(p)
    found = torch_gd.explain(optimizer)
    assert [(b.tensors, b.route, b.bytes_an_element) for b in predicted.batches] == [
        (b.tensors, b.route, b.bytes_an_element) for b in found.batches
    ]
    assert all("gradients assumed" in batch.reason for batch in predicted.batches)


REASONS: list[tuple[str, dict[str, Any], str, str]] = [
    ("AdamW", {}, "torch fused", "on the CPU"),
    ("AdamW", {"fused": True}, "torch fused", "fused=True was given"),
    ("AdamW", {"fused": False}, "torch default", "fused=False was given"),
    ("AdamW", {"foreach": False}, "torch for-loop", "foreach=False was given"),
    ("AdamW", {"foreach": True}, "torch foreach", "foreach=True was given"),
    ("SGD", {"differentiable": True}, "torch default", "differentiable=True was given"),
    ("RMSprop", {}, "torch fused", "on the CPU"),
    ("RMSprop", {"centered": True}, "torch for-loop", "no fused CPU kernel can do it"),
    ("Lion", {}, "torch for-loop", "no fused CPU kernel can do it"),
    ("SGDW", {}, "torch fused", "on the CPU"),
]


@pytest.mark.parametrize(("name", "options", "route", "reason"), REASONS, ids=str)
def test_a_route_has_its_reason(name: str, options: dict[str, Any], route: str, reason: str, torch_path: None) -> None:
    p = torch.zeros(2, requires_grad=True)
    p.grad = torch.zeros(2)
    (batch,) = torch_gd.explain(getattr(torch_gd, name)([p], **options)).batches
    assert (batch.route, batch.reason) == (route, reason)


def odd_parameters(device: torch.device) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return a parameter and a gradient for each reason that lies in the tensors."""
    zeros = torch.zeros(2, 3, device=device)
    return {
        "sparse gradient": (zeros.clone(), zeros.to_sparse()),
        "torch.complex64 parameters": (zeros.cfloat(), zeros.cfloat()),
        "strided views through dense stand-ins: 1": (torch.zeros(2, 6, device=device)[:, ::2], zeros.clone()),
        "gradients copied into the parameter's layout: 1": (zeros.clone(), zeros.t().contiguous().t()),
        "shares memory among its own elements": (torch.zeros(1, 3, device=device).expand(2, 3), zeros.clone()),
        "of shape (2, 3)": (torch.zeros(6, device=device), zeros.clone()),
    }


@pytest.mark.parametrize("reason", odd_parameters(torch.device("cpu")))
def test_an_odd_tensor_has_its_reason(reason: str, device: torch.device) -> None:
    p, grad = odd_parameters(device)[reason]
    p = p.detach().requires_grad_()
    if p.shape == grad.shape:
        p.grad = grad
    else:
        p = p.detach().view(6).requires_grad_()
        p.grad = torch.zeros(6, device=device)
        p.data = p.data[:4]
        reason = "has a gradient of shape (6,)"
    (batch,) = torch_gd.explain(torch_gd.SGD([p], momentum=0.9)).batches
    assert reason in batch.reason


def test_bytes_an_element_are_the_fewest(triton_device: torch.device) -> None:
    """As counted by hand in float32: see the README's table of bytes."""
    p = torch.zeros(4, device=triton_device).requires_grad_()
    p.grad = torch.zeros_like(p)
    options: list[tuple[str, dict[str, Any], int]] = [
        ("SGD", {}, 12),
        ("SGD", {"momentum": 0.9}, 20),
        ("NAG", {}, 20),
        ("Adagrad", {}, 20),
        ("RMSprop", {}, 20),
        ("AdamW", {}, 28),
        *((name, {}, 28) for name in ("Adadelta", "Adamax", "NAdam", "RAdam")),
        ("Lion", {}, 20),
        ("SGDW", {}, 12),
        ("SGDW", {"momentum": 0.9}, 20),
        ("AdamW", {"amsgrad": True}, 36),
        ("AdamW", {"clip": 1.0}, 32),
        ("AdamW", {"clip": ClipByValue(1.0)}, 28),
        ("LAMB", {}, 40),
        ("LARS", {}, 28),
    ]
    for name, chosen, expected in options:
        (batch,) = torch_gd.explain(getattr(torch_gd, name)([p], **chosen)).batches
        assert batch.bytes_an_element == expected, name


def test_a_missing_gpu_route_is_explained() -> None:
    """An old GPU is no silent fallback."""

    class OldGPU(runtime.Runtime):
        def serves(self, tensor: torch.Tensor) -> bool:
            return False

    p = torch.zeros(2, requires_grad=True)
    with runtime.use(OldGPU()):
        text = str(torch_gd.explain(torch_gd.AdamW([p])))
    assert text.startswith("AdamW: one step\ngroups")
    assert "torch fused" in text
    assert text.splitlines()[-1].startswith("total")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            torch.optim.AdamW([torch.zeros(1, requires_grad=True)]),
            "torch.optim.adamw.AdamW is not an optimizer of",
        ),
        (None, "NoneType is not an optimizer"),
        (torch.nn.Linear(1, 1), "Linear is not an optimizer"),
        (torch_gd.AdamW, r"torch_gd.optimizers.adamw.AdamW is a class; .* an instance, such as torch_gd.AdamW\(model"),
    ],
)
def test_other_things_are_refused(wrong: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"Invalid optimizer: .*{message}"):
        torch_gd.explain(wrong)
