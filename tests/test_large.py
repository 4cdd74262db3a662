"""Tensors of more than 2³¹ elements, for which every offset must be an int64."""

import ctypes

import pytest
import torch
from catalogue import Case
from torch import Tensor

from torch_gd._engine import backend

if backend.launch is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

from torch_gd.triton_kernels import launch, rules, table

BEYOND = 2**31 + 2**20


def test_chunk_map_beyond_int32() -> None:
    """The map lists every chunk of every tensor once, in order; empty tensors have none."""
    block = 1 << 20
    chunks = table.chunk_map([3, 0, BEYOND + 1, block, block + 1], block).tolist()
    count = BEYOND // block + 1
    assert chunks == [[0, 0], *([2, i] for i in range(count)), [3, 0], [4, 0], [4, 1]]


@pytest.mark.skipif(not backend.interpreted(), reason="on a GPU, the test below uses a real tensor")
def test_index_arithmetic_beyond_int32() -> None:
    """Of a tensor of 2³¹ + 2²⁰ elements only the last block exists; the kernel must update that and nothing else."""
    block = launch.block_size(torch.float32)
    p, g = torch.ones(block), torch.full((block,), 2.0)
    update = launch.MultiTensorUpdate(rules.SGD, (), [[p], [g]])
    update.chunks.copy_(torch.tensor([[0, BEYOND // block - 1]], dtype=torch.int32))
    update.table.data[table.NUMEL] = BEYOND
    update.derive_on_host([0], [(2.0, 1.0, 0.0, 0.0, 0.25, 0.0)])
    before_the_block = 4 * (BEYOND - block)
    update.run([p.data_ptr() - before_the_block, g.data_ptr() - before_the_block], launch.UNCHANGED)
    assert torch.equal(p, torch.full((block,), 0.5))
    assert ctypes.c_float.from_address(g.data_ptr()).value == 2.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs 20 GB of GPU memory")
@pytest.mark.parametrize("case", [Case("SGD", {"momentum": 0.9})], ids=str)
def test_step_beyond_int32_on_a_gpu(case: Case) -> None:
    p: Tensor = torch.ones(BEYOND + 3, dtype=torch.bfloat16, device="cuda").requires_grad_()
    p.grad = torch.ones_like(p)
    case.ours([p], lr=0.5).step()
    assert p[-5:].tolist() == [0.5] * 5
    assert bool((p == 0.5).all())
