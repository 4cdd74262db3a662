"""The rules' division and square root are correctly rounded, or within two ulps, over all float32 numbers."""

import math

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")
import triton
import triton.language as tl

from torch_gd.triton_kernels.launch import needs_exact
from torch_gd.triton_kernels.rule import divide, root

BLOCK = 1024
SPECIAL = [0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, -1.0, 2.0**-149, 2.0**-126, 2.0**-100, 3.4e38]


@triton.jit
def apply_kernel(x_ptr, y_ptr, roots, quotients, exact: tl.constexpr, by_one: tl.constexpr, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offsets)
    y = tl.load(y_ptr + tl.program_id(0)) if by_one else tl.load(y_ptr + offsets)
    tl.store(roots + offsets, root(x, exact))
    tl.store(quotients + offsets, divide(x, y, exact))


def applied(x: Tensor, y: Tensor, exact: bool) -> tuple[Tensor, Tensor]:
    """Return the roots of `x`, and `x / y`; `y` has one divisor for each element of `x`, or one for each block."""
    roots, quotients = torch.empty_like(x), torch.empty_like(x)
    by_one = y.numel() < x.numel()
    apply_kernel[(x.numel() // BLOCK,)](x, y, roots, quotients, exact, by_one, BLOCK, enable_fp_fusion=True)
    return roots.cpu(), quotients.cpu()


def ulps(found: Tensor, expected: Tensor) -> Tensor:
    """Return how far results are from those in double precision, in units of float32's last place."""
    exponent = torch.frexp(expected.abs().clamp(min=2.0**-126)).exponent
    distance = (found.double() - expected).abs() / torch.ldexp(torch.ones_like(expected), exponent - 24)
    same = (found == expected.float()) | (found.isnan() & expected.isnan())
    return torch.where(same, torch.zeros_like(distance), distance)


def numbers() -> Tensor:
    """Return numbers of both signs and every exponent, subnormal ones included, and the special ones."""
    fraction = torch.rand(16 * BLOCK - len(SPECIAL), dtype=torch.float64) + 1
    exponent = torch.randint(-149, 128, fraction.shape)
    sign = torch.randint(0, 2, fraction.shape) * 2 - 1
    return torch.cat([torch.tensor(SPECIAL, dtype=torch.float64), sign * torch.ldexp(fraction, exponent)]).float()


# The result in double precision is rounded, too, so a correctly rounded one may be slightly more than 0.5 ulp away.
HALF_AN_ULP = 0.5 + 2.0**-28


@pytest.mark.parametrize("exact", [True, False])
def test_roots_and_quotients_of_every_number(exact: bool, triton_device: torch.device) -> None:
    """By the PTX ISA, `sqrt.approx` is within 2⁻²³ of the root, which is two ulps at most; so is `div.full`."""
    torch.manual_seed(0)
    x, y = numbers(), numbers()
    # As in the rules, a divisor is zero, or at least the root of the least subnormal number, which is 2⁻⁷⁴·⁵.
    y = torch.where(y.abs() < 2.0**-75, 0.0, y.abs())
    y[: len(SPECIAL)] = torch.tensor(SPECIAL).abs().roll(3)
    roots, quotients = applied(x.to(triton_device), y.to(triton_device), exact)
    most = HALF_AN_ULP if exact else 2.0
    assert ulps(roots, x.double().sqrt()).max() <= most
    assert ulps(quotients, x.double() / y.double()).max() <= most


@pytest.mark.parametrize("exact", [True, False])
def test_quotients_by_one_divisor(exact: bool, triton_device: torch.device) -> None:
    """Bias correction divides by one number in (0, 1]: if approximate, by a reciprocal and a product of an ulp each."""
    torch.manual_seed(0)
    x = numbers()
    x = torch.where(x.abs() < 2.0**-75, 0.0, x)  # zero, or the root of a float32 number
    y = torch.logspace(-8, 0, len(x) // BLOCK)
    quotients = applied(x.to(triton_device), y.to(triton_device), exact)[1]
    most = HALF_AN_ULP if exact else 2.0
    assert ulps(quotients, x.double() / y.double().repeat_interleave(BLOCK)).max() <= most


def test_only_half_precision_is_approximate() -> None:
    half = [torch.bfloat16, torch.float16]
    assert not any(needs_exact(stored) for stored in ([torch.bfloat16], [torch.float16] * 4, half))
    for wide in (torch.float32, torch.float64):
        assert all(needs_exact(stored) for stored in ([wide], [torch.bfloat16, wide], [wide, *half]))
