"""Rounding by noise: the same bits wherever they must be the same, and what 8 bits do in the worst cases."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pretended_gpu import pretended_gpu
from stored_bounds import give_gradients, stored_values, weights
from torch import Tensor

import torch_gd
from torch_gd import Precision
from torch_gd._engine import backend

BF16 = torch.bfloat16


def trained(precision: Precision | float, device: torch.device, steps: int = 3, **options: Any) -> list[Tensor]:
    """Return weights and all that is stored of them, after some steps."""
    params = weights(BF16, device, options.pop("shapes", [(4, 32), (96,)]))
    optimizer = getattr(torch_gd, options.pop("name", "AdamW"))(params, lr=0.01, precision=precision, **options)
    for step in range(steps):
        give_gradients(params, step)
        optimizer.step()
    return [p.detach() for p in params] + [value for p in params for value in optimizer.state[p].values()]


NOISY = Precision("stochastic", "8bit", min_elements=1)


def test_replicas_have_the_same_bits_and_seeds_differ(device: torch.device) -> None:
    one, same = trained(NOISY, device), trained(NOISY, device)
    assert all(map(torch.equal, one, same))
    other = trained(Precision("stochastic", "8bit", min_elements=1, seed=1), device)
    assert not any(map(torch.equal, one[:2], other[:2]))


def test_noise_differs_between_tensors_and_steps(device: torch.device) -> None:
    """Equal tensors with equal gradients are rounded otherwise, and so is one from step to step.

    Each weight is to move by half of its least step: half of them do, within the discrepancy of `test_codecs`.
    """
    params = [torch.ones(4096, dtype=BF16, device=device).requires_grad_() for _ in range(2)]
    optimizer = torch_gd.SGD(params, lr=2.0**-8, precision=Precision("stochastic", min_elements=1))
    rose: list[Tensor] = []
    for _ in range(2):
        for p in params:
            p.data.fill_(1)
            p.grad = -torch.ones_like(p)
        optimizer.step()
        rose += [(p > 1).detach().cpu() for p in params]
    for i, one in enumerate(rose):
        assert abs(one.float().mean() - 0.5) <= 0.0071
        assert not any(torch.equal(one, other) for other in rose[:i])


def test_noise_goes_on_after_save_and_load(device: torch.device) -> None:
    """A run that is saved and goes on has the bits of one that was not; here by a pickle of the optimizer."""
    expected = trained(NOISY, device, steps=4)
    params = weights(BF16, device, [(4, 32), (96,)])
    optimizer: Any = torch_gd.AdamW(params, lr=0.01, precision=NOISY)
    for step in range(4):
        give_gradients(params, step)
        optimizer.step()
        if step == 1:
            optimizer = copy.deepcopy(optimizer)
            params = optimizer.param_groups[0]["params"]
    found = [p.detach() for p in params] + [value for p in params for value in optimizer.state[p].values()]
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_a_step_that_is_left_out_consumes_no_noise(name: str, device: torch.device) -> None:
    expected = trained(NOISY, device, name=name)
    params = weights(BF16, device, [(4, 32), (96,)])
    optimizer: Any = getattr(torch_gd, name)(params, lr=0.01, precision=NOISY)
    optimizer.grad_scale = torch.ones((), device=device)
    for step in range(3):
        for found_inf in (1.0, 0.0):
            give_gradients(params, step if found_inf == 0 else 99)
            optimizer.found_inf = torch.full((), found_inf, device=device)
            optimizer.step()
    found = [p.detach() for p in params] + [value for p in params for value in optimizer.state[p].values()]
    for one, other in zip(found, expected):
        torch.testing.assert_close(one.cpu(), other.cpu(), rtol=0, atol=0, check_dtype=False)


def test_a_learning_rate_that_is_a_tensor(device: torch.device) -> None:
    """A power of two is the same number there, and the rest is derived in double on both sides."""
    found = []
    for lr in (0.0625, torch.tensor(0.0625, device=device)):
        params = weights(BF16, device)
        optimizer = torch_gd.SGD(params, lr=lr, momentum=0.5, precision=NOISY)
        for step in range(3):
            give_gradients(params, step)
            optimizer.step()
        found.append([p.detach() for p in params])
    assert all(map(torch.equal, *found))


def test_aligned_tensors_and_others_are_rounded_alike(device: torch.device) -> None:
    """Whole chunks of aligned tensors and the slices that all else takes give the same bits, tails included."""
    found = []
    for offset in (0, 1):
        p = torch.linspace(-1, 1, 4096 + 96 + offset, device=device)[offset:].to(BF16)
        base = torch.zeros(4096 + 97, dtype=BF16, device=device)
        p = base[offset : offset + 4192].copy_(torch.linspace(-1, 1, 4192)).requires_grad_()
        optimizer = torch_gd.AdamW([p], lr=0.01, precision=Precision("bf16+8", "8bit"))
        for step in range(2):
            give_gradients([p], step)
            optimizer.step()
        found.append([p.detach(), *optimizer.state[p].values()])
    assert all(map(torch.equal, *found))


def test_a_captured_step_has_the_bits_of_an_eager_one() -> None:
    """Step and noise come from the device: each replay advances them."""
    if not backend.interpreted():
        pytest.skip("needs Triton's interpreter; on a GPU, test_cuda_graph.py captures")
    found = []
    for replays in (0, 2):
        with pretended_gpu() as gpu:
            p = torch.linspace(-1, 1, 64).to(BF16).to(gpu.device).requires_grad_()
            p.grad = torch.linspace(-2, 3, 64).to(BF16).to(gpu.device)
            optimizer = torch_gd.AdamW([p], lr=0.01, capturable=True, precision=NOISY)
            gpu.warm_up(optimizer.step)
            if replays:
                with gpu.capture() as graph:
                    optimizer.step()
            for _ in range(2):
                graph.replay() if replays else optimizer.step()
            found.append([p.detach().cpu(), *(x.cpu() for x in optimizer.state[p].values())])
    assert all(map(torch.equal, *found))


# --- The worst cases --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("states", ["bf16", "8bit"])
def test_second_moments_follow_gradients_that_fall_tenfold(states: str, torch_path: None) -> None:
    """Their root falls to a tenth, too; rounded to nearest in bfloat16, it would stay several times as large.

    Of 2¹⁴ elements the mean is looked at. A code c up to 255, wrong by less than one with zero mean, makes v wrong by
    a factor whose mean is 1 + 6 · var / c²; the codes are above 200 here, var below 1/3, and 100 steps weigh on v.
    """
    p = torch.zeros(2**14, dtype=BF16).requires_grad_()
    optimizer = torch_gd.AdamW([p], betas=(0.9, 0.99), precision=Precision("stochastic", states))
    for step in range(500):
        p.grad = torch.full_like(p, 1.0 if step < 100 else 0.1)
        optimizer.step()
    expected = 0.01 + (1 - 0.99**100 - 0.01) * 0.99**400
    found = stored_values(optimizer, p)["exp_avg_sq"].double().mean()
    assert abs(found / expected - 1) <= 100 * 6 / 3 / 200**2


def largest_updates(states: str | None, gradients: Callable[[int], Tensor], steps: int) -> Tensor:
    """Return the largest update of each of 32 elements, over groups and steps, that AdamW makes with lr = 1."""
    p = torch.zeros(32 * 16).requires_grad_()
    precision = None if states is None else Precision(None, states, min_elements=1)
    optimizer = torch_gd.AdamW([p], lr=1.0, betas=(0.9, 0.99), weight_decay=0, precision=precision)
    largest = torch.zeros(32)
    for step in range(steps):
        before, p.grad = p.detach().clone(), gradients(step)
        optimizer.step()
        largest = largest.maximum((p.detach() - before).abs().view(16, 32).amax(0))
    return largest


# Where a second moment has code c, whose root is 2 · 127 / 255 of the first one's, noise makes it c - 1 at least, and
# never 0; and the code d = c / 2 of the first moment d + 1 at most. ((d + 1) / d)² · (c / (c - 1))² is largest at
# c = 2, d = 1, where it is 16. What is added in the step itself is exact.
WORST = 16


def test_a_noisy_group_makes_no_wild_step(torch_path: None) -> None:
    """One element of a group has gradients of size 1, and the others constant ones, down to 1e-7: exact is 1."""

    def gradients(step: int) -> Tensor:
        g = torch.logspace(0, -7, 32).repeat(16)
        g[::32] = torch.randn(16, generator=torch.Generator().manual_seed(step))
        return g

    assert largest_updates("8bit", gradients, 200)[1:].max() <= WORST
    assert largest_updates(None, gradients, 200)[1:].max() <= 1.001


def test_momentum_decays_beside_an_element_that_stays(torch_path: None) -> None:
    """Gradients end while those of one element of the group do not change. Rounded to nearest the first moment stayed,
    while the second one decayed: updates of 235 · lr."""

    def gradients(step: int) -> Tensor:
        g = torch.full((32 * 16,), 0.004 if step < 20 else 0.0)
        g[::32] = 1.0
        return g

    assert largest_updates("8bit", gradients, 1000).max() <= WORST


def test_gradients_of_1e_8_are_as_good_as_others(torch_path: None) -> None:
    """Times 2⁻²⁸, all codes are the same, and the scales 2⁻¹⁴ of what they were: nothing falls out of a range."""
    found = []
    for factor in (1.0, 2.0**-28):
        p = torch.zeros(64, 32).requires_grad_()
        optimizer = torch_gd.AdamW([p], precision=Precision(None, "8bit", min_elements=1))
        for step in range(5):
            p.grad = torch.randn(64, 32, generator=torch.Generator().manual_seed(step)) * factor
            optimizer.step()
        state = optimizer.state[p]
        scales = [state[name] / factor**0.5 for name in ("exp_avg_scale", "exp_avg_sq_scale")]
        found.append([state["exp_avg_code"], state["exp_avg_sq_code"], *scales])
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize(("weights", "error"), [("bf16+16", 0.0), ("bf16+8", 2.0**-16), ("stochastic", 2.0**-7)])
def test_weight_decay_alone_is_not_lost(weights: str, error: float, torch_path: None) -> None:
    """A factor of 0.999 a step, less than the least step of bfloat16, which rounding to nearest would never take.

    The remainders are wrong by a rounding a step. Stochastically rounded ones are right in the mean: over 4,096
    elements and 100 steps, within five standard deviations of roundings that are one step of 2⁻⁷ at most, and half in
    the mean square.
    """
    p = torch.full((4096,), 1.5, dtype=BF16).requires_grad_()
    optimizer = torch_gd.AdamW([p], lr=0.01, weight_decay=0.1, precision=Precision(weights))
    p.grad = torch.zeros_like(p)
    for _ in range(100):
        optimizer.step()
    found = stored_values(optimizer, p)[""].double()
    expected = 1.5 * 0.999**100
    allowed = 100 * error if weights != "stochastic" else 5 * 0.5 * error * 100**0.5 / 4096**0.5
    assert abs(found.mean() / expected - 1) <= allowed + 200 * 2.0**-24
