"""Division and square root are correctly rounded, or within two ulps, over all float32 numbers."""

import inspect
import math
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")
import triton
import triton.language as tl

import torch_gd
from torch_gd import ClipAdaptive, ClipByGlobalNorm
from torch_gd.clipping import tensor_norms
from torch_gd.triton_kernels.codecs import Codecs, plain
from torch_gd.triton_kernels.launch import access_size, needs_exact
from torch_gd.triton_kernels.reductions import coefficient_kernel
from torch_gd.triton_kernels.rule import divide, root
from torch_gd.triton_kernels.runtime import DTYPES, Runtime, use
from torch_gd.triton_kernels.table import TRITON_DTYPES

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


@pytest.mark.parametrize("compute", [torch.float32, torch.float64], ids=str)
def test_the_clip_coefficient_is_torchs_bit_for_bit(compute: torch.dtype, triton_device: torch.device) -> None:
    """The norm is given, as a maximum, which is exact; torch divides a number by a tensor in two rounded steps."""
    torch.manual_seed(0)
    norms = torch.cat([torch.logspace(-9, 30, 20, dtype=compute), torch.tensor([0.0, math.inf, math.nan])])
    max_norm = 0.3
    expected = torch.clamp(max_norm / (norms.to(compute) + 1e-6), max=1.0)
    settings = torch.tensor([max_norm], dtype=torch.float64, device=triton_device)
    found = torch.empty(len(norms), 4, dtype=torch.float64, device=triton_device)
    dtype = {torch.float32: tl.float32, torch.float64: tl.float64}[compute]
    for norm, result in zip(norms.double().to(triton_device), found):
        coefficient_kernel[(1,)](norm, result, None, None, settings, 1, math.inf, False, dtype, 16)
    torch.testing.assert_close(found[:, 1].cpu(), expected.double(), rtol=0, atol=0, equal_nan=True)


def test_no_kernel_takes_a_float(triton_device: torch.device) -> None:
    """It would be rounded to float32, and with it a norm's order; the interpreter would not show it."""

    class Watched(Runtime):
        def start(self, kernel: Any, launcher: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
            for parameter, arg in zip(inspect.signature(kernel.fn).parameters.values(), args, strict=True):
                assert parameter.annotation is tl.constexpr or not isinstance(arg, float), (kernel, parameter)
            started.append(kernel.fn.__name__)
            return super().start(kernel, launcher, args, options)

    started: list[str] = []
    p = torch.ones(3, dtype=torch.float64, device=triton_device, requires_grad=True)
    p.grad = torch.ones_like(p)
    with use(Watched()):
        tensor_norms([p], 3.3)
        for clip in (ClipByGlobalNorm(1.0, norm_type=3.3), ClipAdaptive(0.1)):
            torch_gd.AdamW([p], capturable=True, clip=clip).step()
    kernels = ("partial", "tensor_norm", "coefficient", "scalars", "update", "unit")
    assert set(started) == {f"{name}_kernel" for name in kernels}


def as_plain(dtypes: list[torch.dtype]) -> Codecs:
    return Codecs(plain(TRITON_DTYPES[dtype]) for dtype in dtypes)


@pytest.mark.parametrize("dtypes", [[a, b] for a in DTYPES for b in DTYPES], ids=str)
def test_no_access_needs_more_alignment_than_the_kernel_looks_for(dtypes: list[torch.dtype]) -> None:
    """The kernel takes the branch with the hints where every address is a multiple of 16."""
    sizes = [access_size(as_plain(dtypes)) * dtype.itemsize for dtype in dtypes]
    assert max(sizes) == 16
    assert all(16 % size == 0 for size in sizes)


def test_only_half_precision_is_approximate() -> None:
    half = [torch.bfloat16, torch.float16]
    assert not any(needs_exact(as_plain(stored)) for stored in ([torch.bfloat16], [torch.float16] * 4, half))
    for wide in (torch.float32, torch.float64):
        assert all(needs_exact(as_plain(stored)) for stored in ([wide], [torch.bfloat16, wide], [wide, *half]))
