"""Mixed precision: `torch.amp.GradScaler` gives the same scales, skips and values with ours as with torch's."""

import copy
from typing import Any

import pytest
import torch
from catalogue import Case

import torch_gd

CASES = [
    Case("SGD"),
    Case("SGD", {"momentum": 0.9, "weight_decay": 0.1}),
    Case("Adagrad"),
    Case("Adam", {"amsgrad": True}),
    Case("AdamW"),
    Case("NAdam"),
    Case("Lion", {"lr": 0.01}),
    Case("SGDW", {"momentum": 0.9, "weight_decay": 0.1}),
]


def train(optimizer: torch.optim.Optimizer, p: torch.Tensor, device: torch.device) -> list[tuple[float, list[float]]]:
    """Train with gradients that overflow at first and in step 5; return scale and parameter after each step."""
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0**16, growth_interval=3)
    seen = []
    for step in range(12):
        optimizer.zero_grad()
        factor = torch.tensor([1.0, 0.5, 3e38 if step == 5 else 1.0], device=device)
        scaler.scale((p * factor).square().sum() * 0.1).backward()
        scaler.step(optimizer)
        scaler.update()
        seen.append((scaler.get_scale(), p.tolist()))
    return seen


@pytest.mark.parametrize("name", ["SGD", "NAG"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_an_overflow_in_the_first_step(name: str, dtype: torch.dtype, device: torch.device) -> None:
    """GradScaler's default scale often overflows at first; the momentum must not start from uninitialized memory."""
    found = []
    for package, more in ((torch_gd, {"fused": True}), (torch.optim, {"foreach": False})):
        p = torch.full((40,), 0.5, dtype=dtype, device=device).requires_grad_()
        cls = torch.optim.SGD if package is torch.optim else getattr(torch_gd, name)
        options = {"nesterov": True} if package is torch.optim and name == "NAG" else {}
        optimizer = cls([p], lr=0.125, momentum=0.5, **options, **more)
        for step in range(4):
            p.grad = torch.full_like(p, 256.0)
            found_inf = torch.full((), float(step == 0), device=device)
            if package is torch_gd:
                optimizer.grad_scale, optimizer.found_inf = torch.full((), 1024.0, device=device), found_inf
                optimizer.step()
            elif not found_inf:
                p.grad /= 1024.0
                optimizer.step()
        found.append(p.detach())
    # All values are sums of a few powers of two, which are exact in either dtype.
    assert torch.equal(*found)


def test_every_counter_stays_where_a_step_is_skipped(device: torch.device) -> None:
    """A skipped step advances no counter, not even in a group without `fused` if another group has it."""
    params = [torch.ones(3, device=device).requires_grad_() for _ in range(2)]
    optimizer = torch_gd.AdamW([{"params": params[:1], "fused": True}, {"params": params[1:]}])
    for step in range(3):
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.grad_scale = torch.ones((), device=device)
        optimizer.found_inf = torch.full((), float(step == 1), device=device)
        optimizer.step()
    assert [optimizer.state[p]["step"].item() for p in params] == [2, 2]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("fused", [True, None])
def test_skips_and_values_are_torchs(case: Case, fused: bool | None, device: torch.device) -> None:
    if fused and not case.takes_fused:
        pytest.skip("this optimizer takes no `fused`")
    start = torch.tensor([1.0, -2.0, 0.5], device=device)
    ours, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()
    more = {} if fused is None else {"fused": True}
    optimizer = case.ours([ours], **more)
    reference = case.reference([theirs], foreach=False)  # unscaled and skipped by the scaler itself
    assert getattr(optimizer, "_step_supports_amp_scaling", False) is bool(fused)
    assert getattr(copy.deepcopy(optimizer), "_step_supports_amp_scaling", False) is bool(fused)
    for step, (mine, other) in enumerate(zip(train(optimizer, ours, device), train(reference, theirs, device))):
        assert mine[0] == other[0], step
        torch.testing.assert_close(mine[1], other[1], rtol=(step + 1) * 4 * torch.finfo(torch.float32).eps, atol=0)
    if "step" in optimizer.state[ours]:
        assert optimizer.state[ours]["step"].item() == reference.state[theirs]["step"].item() == 11


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("clip", [None, torch_gd.ClipByGlobalNorm(0.5)], ids=str)
@pytest.mark.parametrize("unscale", [True, False])
def test_autocast_training(
    case: Case, clip: torch_gd.ClipByGlobalNorm | None, unscale: bool, device: torch.device
) -> None:
    """Training under autocast, with real overflows, follows torch's; modelled on torch's test of its fused optimizers.

    Autocast is to float16 on a GPU and to bfloat16 on a CPU; a scale of 2²⁴ overflows a few times until it fits.
    """
    found = []
    for mine in (True, False):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4)).to(device)
        optimizer = (
            case.ours(model.parameters(), clip=clip, **({"fused": True} if case.takes_fused else {}))
            if mine
            else case.reference(model.parameters(), foreach=False)
        )
        scaler = torch.amp.GradScaler(device.type, init_scale=2.0**24, growth_interval=4)
        scales = []
        for step in range(10):
            inputs = torch.randn(16, 8, device=device)
            optimizer.zero_grad()
            with torch.autocast(device.type, dtype=torch.float16 if device.type == "cuda" else torch.bfloat16):
                loss = model(inputs).float().square().mean() * (1e36 if step in (0, 1, 6) else 1.0)
            scaler.scale(loss).backward()
            if unscale or (clip is not None and not mine):
                scaler.unscale_(optimizer)
            if clip is not None and not mine:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip.max_norm)
            scaler.step(optimizer)
            scaler.update()
            scales.append(scaler.get_scale())
        found.append((scales, [p.detach().clone() for p in model.parameters()]))
    assert found[0][0] == found[1][0]
    assert found[0][0][0] < 2.0**24, "nothing overflowed"
    for p, q in zip(found[0][1], found[1][1]):
        # A parameter that differs by an ulp may round an activation differently and so change half-precision gradients.
        torch.testing.assert_close(p, q, rtol=0, atol=10 * 0.01 * torch.finfo(torch.bfloat16).eps)


@pytest.mark.parametrize("later", [False, True], ids=["from the start", "set after a step"])
@pytest.mark.parametrize("case", [Case("SGD", {"fused": True}), Case("AdamW", {"fused": True})], ids=str)
def test_a_step_that_is_left_out_shrinks_nothing(case: Case, later: bool, device: torch.device) -> None:
    """The L1 penalty is part of the step, also where torch's fused kernel is told to skip it."""
    p = torch.ones(3, device=device).requires_grad_()
    optimizer: Any = case.ours([p], lr=0.1, l1=0.0 if later else 1.0)

    def step(gradient: float, found_inf: float) -> None:
        p.grad = torch.full_like(p, gradient)
        optimizer.grad_scale = torch.ones(1, device=device)
        optimizer.found_inf = torch.full((1,), found_inf, device=device)
        optimizer.step()

    for _ in range(2):
        step(1.0, 0.0)
    optimizer.param_groups[0]["l1"] = 1.0
    before = p.detach().clone()
    for _ in range(3):
        step(torch.inf, 1.0)
    assert torch.equal(p, before)
    step(1.0, 0.0)
    # The update lowers the parameter, and the soft threshold by lr · l1 = 0.1 more.
    assert torch.all(p < before - 0.1)
