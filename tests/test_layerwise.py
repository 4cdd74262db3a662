"""What LAMB and LARS promise beyond their arithmetic: the definitions of others, and passes that agree."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from layer_references import LAMB, ApexFusedLAMB, ApexLARC, OptaxLamb
from libraries import timm_class
from torch import Tensor

import torch_gd

SHAPES = [(), (0,), (7,), (33, 65), (2, 1024), (4097,)]
STEPS = 10


def trained(make: Callable[[Any], torch.optim.Optimizer], device: torch.device) -> list[Tensor]:
    """Return parameters after some steps in float64: two groups, a zero parameter and a zero gradient among them."""
    torch.manual_seed(0)
    params = [torch.randn(shape, dtype=torch.float64).to(device).requires_grad_() for shape in SHAPES]
    params[2].data.zero_()
    optimizer = make([{"params": params[0::2]}, {"params": params[1::2], "lr": 0.02, "weight_decay": 0.1}])
    for step in range(STEPS):
        for i, p in enumerate(params):
            p.grad = torch.randn(p.shape, dtype=torch.float64).to(device) * (0.5 + step % 3) * (i != 4)
        optimizer.step()
    return [p.detach() for p in params]


NO_CLIP = {"max_grad_norm": None}
TIMMS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("Lamb", {"always_adapt": False, "weight_decay": 0.0}, {"weight_decay": 0.0, **NO_CLIP}),
    ("Lamb", {}, {"always_adapt": True, **NO_CLIP}),
    ("Lamb", {"bias_correction": False}, {"bias_correction": False, **NO_CLIP}),
    ("Lamb", {"grad_averaging": False, "max_trust": 1.0}, {"grad_averaging": False, "trust_clip": True, **NO_CLIP}),
    ("Lamb", {"decoupled_weight_decay": True}, {"decoupled_decay": True, **NO_CLIP}),
    ("Lars", {"momentum": 0, "weight_decay": 0, "always_adapt": False}, {}),
    ("Lars", {}, {"momentum": 0.9, "weight_decay": 5e-4}),
    ("Lars", {"nesterov": True, "trust_clip": True}, {"momentum": 0.9, "nesterov": True, "trust_clip": True}),
    ("Lars", {"dampening": 0.1, "lr_in_momentum": False}, {"dampening": 0.1, "momentum": 0.9, "weight_decay": 5e-4}),
]


@pytest.mark.parametrize(("name", "options", "theirs"), TIMMS, ids=str)
def test_timms(name: str, options: dict[str, Any], theirs: dict[str, Any], device: torch.device) -> None:
    """Ten steps of some twenty roundings each, of values below 8, whose differences are not enlarged."""
    cls = timm_class(name)
    if name == "Lars":  # whose default is 0
        theirs = {"weight_decay": 5e-4 if options.get("weight_decay") != 0 else 0.0, **theirs}
    ours = trained(lambda groups: getattr(torch_gd, name.upper())(groups, lr=0.01, **options), device)
    expected = trained(lambda groups: cls(groups, lr=0.01, **theirs), device)
    torch.testing.assert_close(ours, expected, rtol=0, atol=STEPS * 20 * 8 * torch.finfo(torch.float64).eps)


def test_timms_own_clip(device: torch.device) -> None:
    """It lacks the 1e-6 of `clip_grad_norm_`: 2e-8 of a gradient whose norm is 60 here, and less of Adam's step."""
    cls = timm_class("Lamb")
    ours = trained(lambda groups: torch_gd.LAMB(groups, lr=0.01, always_adapt=False, clip=1.0), device)
    torch.testing.assert_close(ours, trained(lambda groups: cls(groups, lr=0.01), device), rtol=0, atol=STEPS * 2e-8)


LARC = {"trust_coeff": 0.02, "trust_clip": True, "lr_in_momentum": False}
OTHERS: list[tuple[Any, dict[str, Any], Any, dict[str, Any]]] = [
    (torch_gd.LAMB, {"clip": 1.0}, ApexFusedLAMB, {"use_nvlamb": True}),
    (torch_gd.LAMB, {"clip": 1.0, "always_adapt": False, "weight_decay": 0.0}, ApexFusedLAMB, {"weight_decay": 0.0}),
    (torch_gd.LAMB, {"clip": 1.0, "always_adapt": False, "adam_w_mode": False}, ApexFusedLAMB, {"adam_w_mode": False}),
    (torch_gd.LAMB, {"clip": 1.0, "grad_averaging": False}, ApexFusedLAMB, {"grad_averaging": False}),
    (torch_gd.LAMB, {"weight_decay": 0.0}, OptaxLamb, {}),
    (torch_gd.LAMB, {}, OptaxLamb, {"weight_decay": 0.01}),
    (torch_gd.LARS, LARC, ApexLARC, {}),
]


@pytest.mark.parametrize(("ours", "options", "theirs", "their_options"), OTHERS, ids=str)
def test_definitions_of_others(
    ours: Any, options: dict[str, Any], theirs: Any, their_options: dict[str, Any], torch_path: None
) -> None:
    """Check each row of the classes' tables, by its source.

    Rounding as in `test_timms`, and the 1e-6 of the clip as in the test above.
    """
    found = trained(lambda groups: ours(groups, lr=0.01, **options), torch.device("cpu"))
    expected = trained(lambda groups: theirs(groups, lr=0.01, **their_options), torch.device("cpu"))
    if theirs is ApexLARC:  # which does not decay where the gradient is zero
        del found[4], expected[4]
    tolerance = STEPS * (2e-8 if "clip" in options else 20 * 8 * torch.finfo(torch.float64).eps)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_both_passes_see_the_same_update(dtype: torch.dtype, triton_device: torch.device) -> None:
    """The step of one element is lr times the element, if what was measured is what is applied.

    Where states are rounded between the passes, an update that was measured before would differ by a 500th.
    """
    p = torch.full((1,), 3.0, device=triton_device).requires_grad_()
    optimizer = torch_gd.LAMB([p], lr=0.125)
    states = {name: torch.full_like(p, 1.0, dtype=dtype) for name in ("exp_avg", "exp_avg_sq")}
    optimizer.state[p] = {"step": torch.tensor(1.0), **states}
    p.grad = torch.full_like(p, 0.3)
    optimizer.step()
    # A square, two sums, two roots, a quotient, two products and a difference.
    assert float(p) == pytest.approx(3.0 - 0.125 * 3.0, rel=10 * torch.finfo(torch.float32).eps)


def test_a_zero_gradient_with_decay(device: torch.device) -> None:
    """The step is then the decay alone, and is scaled to lr times the parameter, whatever the decay."""
    for weight_decay in (1e-4, 0.1):
        p = torch.tensor([3.0, -4.0], device=device).requires_grad_()
        p.grad = torch.zeros_like(p)
        torch_gd.LAMB([p], lr=0.125, weight_decay=weight_decay).step()
        torch.testing.assert_close(p.detach().cpu(), torch.tensor([2.625, -3.5]))


def test_one_after_the_other(device: torch.device) -> None:
    """A parameter that is listed twice is measured again before its second step, as in a loop."""
    p, q = (torch.tensor([3.0, -4.0], device=device).requires_grad_() for _ in range(2))
    for cls, one in ((torch_gd.LAMB, p), (LAMB, q)):
        one.grad = torch.tensor([1.0, 2.0], device=device)
        with pytest.warns(UserWarning, match="duplicate"):
            cls([one, one], lr=0.5).step()
    torch.testing.assert_close(p, q, rtol=16 * torch.finfo(torch.float32).eps, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"phi": (2.0, 1.0)}, r"Invalid phi: \(2.0, 1.0\); phi must be two numbers"),
        ({"phi": 3}, "Invalid phi: 3; phi must be two numbers"),
        ({"max_trust": -1.0}, "Invalid max_trust value: -1.0"),
        ({"adam_w_mode": False, "decoupled_weight_decay": True}, "contradict each other"),
    ],
    ids=str,
)
def test_mistakes_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        torch_gd.LAMB([torch.zeros(2, requires_grad=True)], **options)
