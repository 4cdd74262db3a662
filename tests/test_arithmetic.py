"""Division and square root of the rules: correctly rounded, or within a few ulps, over all that float32 holds."""

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
    """Roots of `x`, and `x / y`; of `y` there is one for each of x, or for each block of x."""
    roots, quotients = torch.empty_like(x), torch.empty_like(x)
    by_one = y.numel() < x.numel()
    apply_kernel[(x.numel() // BLOCK,)](x, y, roots, quotients, exact, by_one, BLOCK, enable_fp_fusion=True)
    return roots.cpu(), quotients.cpu()


def ulps(found: Tensor, expected: Tensor) -> Tensor:
    """How far numbers are from those of double precision, in units of float32's last place."""
    exponent = torch.frexp(expected.abs().clamp(min=2.0**-126)).exponent
    distance = (found.double() - expected).abs() / torch.ldexp(torch.ones_like(expected), exponent - 24)
    same = (found == expected.float()) | (found.isnan() & expected.isnan())
    return torch.where(same, torch.zeros_like(distance), distance)


def numbers() -> Tensor:
    """Of every exponent, subnormal ones too, of both signs; and the special ones."""
    fraction = torch.rand(16 * BLOCK - len(SPECIAL), dtype=torch.float64) + 1
    exponent = torch.randint(-149, 128, fraction.shape)
    sign = torch.randint(0, 2, fraction.shape) * 2 - 1
    return torch.cat([torch.tensor(SPECIAL, dtype=torch.float64), sign * torch.ldexp(fraction, exponent)]).float()


# A correctly rounded result and one of double precision, rounded again, may fall on either side of a tie.
HALF_AN_ULP = 0.5 + 2.0**-28


@pytest.mark.parametrize("exact", [True, False])
def test_of_every_number(exact: bool, triton_device: torch.device) -> None:
    """PTX ISA: `sqrt.approx` is within 2⁻²³ of the root, which is two ulps at most; so is `div.full`."""
    torch.manual_seed(0)
    x, y = numbers(), numbers()
    # Divisors as in the rules: zero, or a root, or more; the root of the least subnormal is 2⁻⁷⁴·⁵.
    y = torch.where(y.abs() < 2.0**-75, 0.0, y.abs())
    y[: len(SPECIAL)] = torch.tensor(SPECIAL).abs().roll(3)
    roots, quotients = applied(x.to(triton_device), y.to(triton_device), exact)
    most = HALF_AN_ULP if exact else 2.0
    assert ulps(roots, x.double().sqrt()).max() <= most
    assert ulps(quotients, x.double() / y.double()).max() <= most


@pytest.mark.parametrize("exact", [True, False])
def test_of_one_divisor(exact: bool, triton_device: torch.device) -> None:
    """As bias correction, which is in (0, 1]: reciprocal and product are rounded by an ulp at most."""
    torch.manual_seed(0)
    x = numbers()
    x = torch.where(x.abs() < 2.0**-75, 0.0, x)  # a root
    y = torch.logspace(-8, 0, len(x) // BLOCK)
    quotients = applied(x.to(triton_device), y.to(triton_device), exact)[1]
    most = HALF_AN_ULP if exact else 2.0
    assert ulps(quotients, x.double() / y.double().repeat_interleave(BLOCK)).max() <= most


def test_only_half_precision_is_approximate() -> None:
    half = [torch.bfloat16, torch.float16]
    assert not any(needs_exact(stored) for stored in ([torch.bfloat16], [torch.float16] * 4, half))
    for wide in (torch.float32, torch.float64):
        assert all(needs_exact(stored) for stored in ([wide], [torch.bfloat16, wide], [wide, *half]))
