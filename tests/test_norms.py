"""Norms of many tensors equal torch's norm of each, for any mix of shapes and dtypes."""

import math
from typing import Any

import pytest
import torch

from torch_gd.clipping.norms import tensor_norms

SHAPES = [(), (1,), (7,), (3, 5), (2, 3, 4), (0,)]


@pytest.mark.parametrize("norm_type", [0.5, 1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64])
def test_each_norm_matches_torch(dtype: torch.dtype, norm_type: float, device: torch.device) -> None:
    tensors = [torch.randn(shape, dtype=dtype, device=device) for shape in SHAPES]
    wide = torch.complex128 if dtype.is_complex else torch.float64
    expected = [torch.linalg.vector_norm(t.to(wide), norm_type).item() if t.numel() > 0 else 0.0 for t in tensors]
    norms = tensor_norms(tensors, norm_type)
    assert norms.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    # At most 24 terms in float32, each rounded about 4 times (power, sum, and a root that is a square for p = 0.5):
    # 24 · 4 · 2^-24 = 6e-6.
    torch.testing.assert_close(norms.double().cpu(), torch.tensor(expected, dtype=torch.float64), rtol=6e-6, atol=0)


def test_norms_of_mixed_dtypes_keep_their_order() -> None:
    tensors = [
        torch.full((n,), 1.0, dtype=dtype) for n, dtype in [(1, torch.float32), (4, torch.float64), (9, torch.bfloat16)]
    ]
    norms = tensor_norms([*tensors, torch.full((16,), 1.0)])
    assert norms.tolist() == [1, 2, 3, 4]
    assert norms.dtype == torch.float64


def test_half_precision_is_accumulated_in_float32() -> None:
    norms = tensor_norms([torch.full((10_000,), 300.0, dtype=torch.float16)])  # the square of 300 overflows float16
    assert norms.tolist() == pytest.approx([30_000])


def test_norms_of_non_finite_tensors_are_not_finite() -> None:
    assert tensor_norms([torch.tensor([math.inf, 1.0])]).tolist() == [math.inf]
    assert tensor_norms([torch.tensor([math.nan, 1.0])]).isnan().all()


def test_strided_and_sparse() -> None:
    strided = torch.arange(8.0)[::2]
    sparse = torch.sparse_coo_tensor([[0, 0, 3]], [1.0, 2.0, 4.0], (5,))  # duplicate indices add up: 3 and 4
    assert tensor_norms([strided, sparse]).tolist() == pytest.approx([strided.norm().item(), 5.0])


def test_no_tensors_and_no_autograd_graph() -> None:
    assert tensor_norms([]).shape == (0,)
    assert not tensor_norms([torch.ones(3, requires_grad=True)]).requires_grad


@pytest.mark.parametrize("norm_type", [0.0, -1.0, math.nan, "2", None, True, torch.ones(2)])
def test_bad_norm_type(norm_type: Any) -> None:
    with pytest.raises(ValueError if isinstance(norm_type, float) else TypeError, match="Invalid norm_type"):
        tensor_norms([torch.ones(1)], norm_type)
