"""Each codec keeps what it says, on both routes, and both store the same bits. Bounds are derived from the codes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from torch_gd._engine import backend
from torch_gd._engine.encoding import Column, decode, encode, noise
from torch_gd.triton_kernels import runtime

if runtime.HAS_TRITON:
    import triton
    import triton.language as tl

    from torch_gd.triton_kernels.codecs import noise_of

    @triton.jit
    def round_trip_kernel(
        x, bits, first, rest, out, start, numel, codec: tl.constexpr, EACH: tl.constexpr, SIZE: tl.constexpr
    ):
        place = (start + tl.arange(0, SIZE), start + tl.arange(0, SIZE) < numel, start, numel)
        loaded = tl.load(x + place[0], mask=place[1])
        noise = tl.load(bits + place[0], mask=place[1]).to(tl.uint32)
        codec.encode(loaded, (first, rest), place, noise, codec.option, EACH)
        tl.store(out + place[0], codec.decode((first, rest), place, codec.option), mask=place[1])

    @triton.jit
    def noise_kernel(out, of, SIZE: tl.constexpr):
        place = (tl.arange(0, SIZE),)
        bits = noise_of(place, tl.load(of), tl.load(of + 1), tl.load(of + 2))
        tl.store(out + place[0], bits.to(tl.int64))


SIZE = 8192  # elements of a program
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
KINDS = [
    ("plain", FP32),
    ("plain", BF16),
    ("plain", FP16),
    ("stochastic", BF16),
    ("stochastic", FP16),
    ("split16", BF16),
    ("split8", BF16),
    ("signed8", torch.int8),
    ("unsigned8", torch.int8),
]


class Stored(NamedTuple):
    """What lies in memory, and what is read back from there."""

    columns: list[Tensor]
    values: Tensor


RoundTrip = Callable[[str, torch.dtype, Tensor, Tensor], Stored]


def room(kind: str, dtype: torch.dtype, x: Tensor) -> list[Tensor]:
    rest = {"split16": torch.int16, "split8": torch.int8}.get(kind, FP32)
    size = x.numel() // 32 if kind.endswith("signed8") else x.numel()
    return [torch.zeros(x.numel(), dtype=dtype, device=x.device), torch.zeros(size, dtype=rest, device=x.device)]


def by_kernel(kind: str, dtype: torch.dtype, x: Tensor, bits: Tensor) -> Stored:
    codec, columns, out = backend.codecs.of_kind(kind, dtype), room(kind, dtype, x), torch.zeros_like(x)
    for start in range(0, x.numel(), SIZE):
        round_trip_kernel[(1,)](x, bits, *columns, out, start, x.numel(), codec, 4, SIZE)
    return Stored(columns, out)


def by_torch(kind: str, dtype: torch.dtype, x: Tensor, bits: Tensor) -> Stored:
    splits, columns = kind.startswith("split"), room(kind, dtype, x)
    column = Column("" if splits else "state", kind, dtype)
    encode(column, x, columns, bits)
    return Stored(columns, decode(column, columns))


@pytest.fixture
def round_trip(device: torch.device, request: pytest.FixtureRequest) -> RoundTrip:
    """Return what stores numbers and reads them again, on one of the two routes."""
    route = by_kernel if request.node.callspec.params["device"] == "triton" else by_torch

    def run(kind: str, dtype: torch.dtype, x: Tensor, bits: Tensor) -> Stored:
        columns, values = route(kind, dtype, x.to(device), bits.to(device))
        return Stored([column.cpu() for column in columns], values.cpu())

    return run


def any_floats() -> Tensor:
    """Return float32 numbers of random bits, NaN of many payloads and subnormal ones among them, and chosen ones.

    Chosen: zeros, infinities, the largest, the least, NVIDIA's NaN, and ties between two bfloat16 of either parity.
    """
    chosen = [0, 1 << 31, 0x7F800000, 0xFF800000, 0x7F7FFFFF, 0xFF7FFFFF, 1, 0x80000001, 0x007FFFFF, 0x7FFFFFFF]
    chosen += [0xFFFFFFFF, 0x7F800001, 0x3F808000, 0x3F818000, 0xBF808000, 0x3F807FFF, 0x3F808001, 0x00008000]
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(0, 2**32, (SIZE + 4000,), generator=generator, dtype=torch.int64)  # so that there is a tail
    bits[: len(chosen)] = torch.tensor(chosen)
    return torch.where(bits >= 2**31, bits - 2**32, bits).to(torch.int32).view(FP32)


def random_noise(x: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 2**32, x.shape, generator=generator, dtype=torch.int64)


def test_split16_keeps_every_bit(round_trip: RoundTrip) -> None:
    """A NaN stays one, also in the bfloat16; all else is the same float32, sign of zero included."""
    x = any_floats()
    (word, _), found = round_trip("split16", BF16, x, random_noise(x))
    assert torch.equal(found.isnan(), x.isnan())
    assert torch.equal(word.isnan(), x.isnan())
    assert torch.equal(found.view(torch.int32)[~x.isnan()], x.view(torch.int32)[~x.isnan()])
    # The weight itself is rounded to nearest; ties go away from zero, or 16 more bits would not do.
    ties = (x.view(torch.int32) & 0xFFFF) == 0x8000
    assert torch.equal(word[~(ties | x.isnan())], x.to(BF16)[~(ties | x.isnan())])
    assert (word.float() - x).abs()[ties & x.isfinite()].max() > 0


def test_split8_is_right_to_16_bits(round_trip: RoundTrip) -> None:
    """Half a unit of the last of 16 bits is 2⁻¹⁶ of the power of two below; among subnormal numbers, of 2⁻¹²⁶."""
    x = any_floats()
    found = round_trip("split8", BF16, x, random_noise(x)).values
    assert torch.equal(found.isnan(), x.isnan())
    assert torch.equal(found[x.isinf()], x[x.isinf()])
    within = x.isfinite() & (x.abs() < 2.0**127 * (2 - 2.0**-16))  # above, infinity is nearest
    limit = x.double().abs().clamp_min(2.0**-126) * 2.0**-16
    assert ((found.double() - x.double()).abs() <= limit)[within].all()
    assert found[x.isfinite() & ~within].isinf().all()


def test_a_weight_that_is_set_to_zero_is_zero(device: torch.device) -> None:
    """Somebody writes zeros over the weight; the rest that is still there must not make a NaN of them."""
    x = torch.linspace(-3, 3, 64, device=device)  # of rests of both signs
    stored = by_torch("split16", BF16, x, random_noise(x)).columns
    stored[0].zero_()
    assert decode(Column("", "split16"), stored).abs().max() < 2.0**-126


@pytest.mark.parametrize("dtype", [BF16, FP16], ids=str)
def test_stochastic_rounding_is_unbiased(dtype: torch.dtype, round_trip: RoundTrip) -> None:
    """Over evenly spread noise the mean is the number.

    2¹⁶ values of noise, each once, are all there are for bfloat16, and all 13 bits that float16 takes: the mean, a sum
    in float64 of neighbours, is exact. Of subnormal float16 a float32 sum below 2¹⁰ is rounded first, by 2⁻¹⁴ of the
    step of 2⁻²⁴ at most, and 2¹⁶ values may miss by one.
    """
    noises = torch.arange(2**16) << 16
    for value in (-3.141592, 1e-5, -7e-8):
        x = torch.full((2**16,), value)
        found, exact = round_trip("stochastic", dtype, x, noises).values.double(), float(x[0])
        small = dtype == FP16 and abs(exact) < 2.0**-14
        assert abs(found.mean().item() - exact) <= (
            2.0**-24 * (2.0**-14 + 2.0**-16) if small else 2.0**-45 * abs(exact)
        )
        step = torch.finfo(dtype).eps * abs(exact)
        assert (found - exact).abs().max() <= max(step, 2.0**-24 if dtype == FP16 else 0)


@pytest.mark.parametrize(("kind", "dtype"), [("stochastic", BF16), ("stochastic", FP16), ("plain", BF16)], ids=str)
def test_half_precision_keeps_what_it_holds(kind: str, dtype: torch.dtype, round_trip: RoundTrip) -> None:
    """A number of that dtype stays itself whatever the noise, also infinity, and a NaN stays one."""
    x = any_floats().to(dtype).float()
    # Not what a kernel reads: the interpreter reads subnormal bfloat16 wrongly.
    found = round_trip(kind, dtype, x, random_noise(x)).columns[0].float()
    assert torch.equal(found.isnan(), x.isnan())
    assert torch.equal(found[~x.isnan()], x[~x.isnan()])


def wide_groups() -> Tensor:
    """Return groups of 32 numbers that spread over many powers of two, of very different sizes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(61, 32, generator=generator) * torch.exp(3 * torch.randn(61, 32, generator=generator))
    x[:, ::5] *= 1e-14  # of which the code would be zero
    return (x * torch.logspace(-12, 12, 61).view(-1, 1)).view(-1)


def test_signed8_is_within_a_code(round_trip: RoundTrip) -> None:
    """Noise and rounding move the root by less than a scale: the number, by 2 · scale · root + scale²."""
    x = wide_groups()
    (code, scale), found = round_trip("signed8", torch.int8, x, random_noise(x))
    each, root = scale.double().repeat_interleave(32), x.double().abs().sqrt()
    assert ((found.double() - x.double()).abs() <= (2 * each * root + each**2) * (1 + 2.0**-16)).all()
    assert ((found == 0) | (found.sign() == x.sign())).all()
    assert code.view(-1, 32).to(torch.int32).abs().amax(1).ge(126).all()  # each group uses its codes


def test_unsigned8_is_within_a_code_and_never_zero(round_trip: RoundTrip) -> None:
    """Noise and rounding move the fourth root by less than a scale; what is not zero is not stored as zero."""
    x = wide_groups().abs()
    (code, scale), found = round_trip("unsigned8", torch.int8, x, random_noise(x))
    each, root = scale.double().repeat_interleave(32), x.double() ** 0.25
    limit = (root + each) ** 4 - root**4
    assert ((found.double() - x.double()).abs() <= limit * (1 + 2.0**-16)).all()
    assert (code.view(torch.uint8) >= 1).all()
    assert (found > 0).all()


@pytest.mark.parametrize("kind", ["signed8", "unsigned8"])
def test_codes_are_unbiased(kind: str, round_trip: RoundTrip) -> None:
    """Over noise that is evenly spread, the mean code is the root over the scale.

    Each 32nd value of noise is taken. A root up to 255 scales is wrong by 4 units in float32's last place, of 2⁻¹⁵.
    """
    x = torch.full((2**16,), 0.3)
    x[::32] = 1.0  # makes the scale
    (code, scale), _ = round_trip(kind, torch.int8, x, (torch.arange(2**16) << 16).roll(1))
    found = code.view(torch.uint8).double()[1::32].mean()
    expected = (0.3**0.5 if kind == "signed8" else 0.3**0.25) / scale[0].double()
    assert abs(found - expected) <= 32 / 2**16 + 4 * 2.0**-15


@pytest.mark.parametrize("kind", ["signed8", "unsigned8"])
def test_a_nan_or_infinity_is_seen_in_its_group_alone(kind: str, round_trip: RoundTrip) -> None:
    for bad in (torch.nan, torch.inf):
        x = torch.rand(3 * 32)
        x[40] = bad
        found = round_trip(kind, torch.int8, x, random_noise(x)).values.view(3, 32)
        assert not found[1].isfinite().any()
        assert found[[0, 2]].isfinite().all()


@pytest.mark.parametrize(("kind", "dtype"), KINDS, ids=str)
def test_zeros_are_zero_and_zero_bytes_too(kind: str, dtype: torch.dtype, round_trip: RoundTrip) -> None:
    x = torch.zeros(64)
    columns, found = round_trip(kind, dtype, x, random_noise(x))
    assert found.count_nonzero() == 0
    name = "" if kind.startswith("split") else "state"
    assert decode(Column(name, kind, dtype), [torch.zeros_like(one) for one in columns]).count_nonzero() == 0


@pytest.mark.parametrize(("kind", "dtype"), KINDS, ids=str)
def test_kernels_store_the_bits_of_torchs_operators(kind: str, dtype: torch.dtype, triton_device: torch.device) -> None:
    """All bits are the same; of groups, scales may differ by an ulp, as torch's roots on a CPU may be wrong by one.

    A GPU's roots and reciprocals are approximate: there a code may be the next one.
    """
    grouped = kind.endswith("signed8")
    x = wide_groups() if grouped else any_floats()
    if kind == "unsigned8":
        x = x.abs()
    bits = random_noise(x)
    found = by_kernel(kind, dtype, x.to(triton_device), bits.to(triton_device)).columns
    expected = by_torch(kind, dtype, x, bits).columns
    if grouped:
        native = triton_device.type != "cpu"
        torch.testing.assert_close(found[1].cpu(), expected[1], rtol=2.0 ** (-20 if native else -23), atol=0)
        assert (found[0].cpu().to(torch.int32) - expected[0].to(torch.int32)).abs().max() <= native
        return
    for one, other in zip(found, expected):
        torch.testing.assert_close(one.cpu(), other, rtol=0, atol=0, equal_nan=True)


def test_noise_is_that_of_torchs_operators(triton_device: torch.device) -> None:
    found = torch.empty(SIZE, dtype=torch.int64, device=triton_device)
    for of in ((0, 0, 1), (2**32 - 1, 7 * 10**9, 10**6)):  # key, first element, step
        noise_kernel[(1,)](found, torch.tensor(of, device=triton_device), SIZE)
        assert torch.equal(found.cpu(), noise(torch.empty(SIZE), *of))


def test_noise_is_spread_evenly() -> None:
    """N · D* of multiples of the golden ratio is at most 3 + log N / log φ + log N / log φ² (Niederreiter 1978).

    Over the steps of one element there is no such theorem: five standard deviations of random numbers.
    """
    count = 4096
    log_n, log_phi = float(torch.tensor(count).log()), 0.48121182505960347
    limit = (3 + log_n / log_phi + log_n / (2 * log_phi)) / count

    def discrepancy(bits: Tensor) -> float:
        ordered = bits.double().div(2.0**32).sort().values
        places = torch.arange(count, dtype=torch.float64) / count
        return float(torch.maximum((ordered - places).abs(), (places + 1 / count - ordered).abs()).max())

    for step in (1, 2, 1000):
        assert discrepancy(noise(torch.empty(count), 12345, 0, step)) <= limit
    steps: Any = torch.stack([noise(torch.empty(1), 12345, 0, step)[0] for step in range(count)])
    assert abs(steps.double().div(2.0**32).mean() - 0.5) <= 5 * (12 * count) ** -0.5
    assert discrepancy(steps) <= 1.95 * count**-0.5  # Kolmogorov's statistic exceeds it once in a thousand times
