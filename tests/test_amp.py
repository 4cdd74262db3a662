"""Mixed precision: `torch.amp.GradScaler` does with `fused=True` what it does with torch's."""

import copy

import pytest
import torch
from catalogue import Case

CASES = [
    Case("SGD"),
    Case("SGD", {"momentum": 0.9, "weight_decay": 0.1}),
    Case("Adagrad"),
    Case("Adam", {"amsgrad": True}),
    Case("AdamW"),
]


def train(optimizer: torch.optim.Optimizer, p: torch.Tensor, device: torch.device) -> list[tuple[float, list[float]]]:
    """A loss whose scaled gradient overflows at first and in step 5; returns scale and parameter after each step."""
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


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("fused", [True, None])
def test_skips_and_values_are_torchs(case: Case, fused: bool | None, device: torch.device) -> None:
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
