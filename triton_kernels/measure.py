"""The host's side of the reductions: norms of each tensor, of all tensors together, and of units."""

from array import array
from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from . import runtime
from .handle import CompiledKernels
from .launch import LAUNCH_OPTIONS
from .reductions import coefficient_kernel, partial_kernel, tensor_norm_kernel, unit_kernel
from .runtime import INTERPRETED
from .table import ADDRESSES, TRITON_DTYPES, TensorTable, Uploaded, chunk_map, current, upload

# A program sums 32,768 elements: of 10⁹, some 30,000 partials are left for one block to add.
CHUNK, BLOCK = (1 << 12, 1 << 12) if INTERPRETED else (1 << 15, 1 << 11)
FINISH = 1 << 12  # partials that the last block adds at a time
UNIT = 1 << 10  # elements of a unit at a time


class Partials:
    """Partial sums of the tensors of one column of a table.

    Args:
        table: addresses and sizes of the tensors.
        column: which column of addresses, from 0 for parameters.
        dtype: dtype of the tensors.
    """

    def __init__(self, table: TensorTable, column: int, dtype: torch.dtype) -> None:
        self.table, self.column, self.dtype = table, ADDRESSES + column, dtype
        self.chunks = table.chunks(CHUNK)
        self._kernels = CompiledKernels()
        self.count = len(self.chunks)

    def sum(self, norm_type: float, out: Tensor) -> None:
        """Launch the pass over the tensors; `out` receives a double for each chunk, those of a tensor side by side."""
        if self.count == 0:
            return
        compute = torch.float64 if self.dtype == torch.float64 else torch.float32
        with current(self.table.device):
            args = (
                self.table.data,
                self.chunks,
                out,
                self.table.n,
                self.column,
                TRITON_DTYPES[self.dtype],
                TRITON_DTYPES[compute],
                norm_type,
                CHUNK,
                BLOCK,
            )
            self._kernels.run(partial_kernel, self.count, norm_type, args, LAUNCH_OPTIONS)

    def firsts(self) -> list[int]:
        """Return where each tensor's partial sums begin, and where the last one's end."""
        counts = [-(-numel // CHUNK) for numel in self.table.numels]
        return list(accumulate(counts, initial=0))


def tensor_norms(tensors: Sequence[Tensor], norm_type: float) -> Tensor:
    """Return the norm of each tensor, all of one dtype and device: float32 (float64 of float64), shape (tensors,)."""
    device, dtype = tensors[0].device, tensors[0].dtype
    table = TensorTable([t.numel() for t in tensors], 1, device)
    table.set_addresses([t.data_ptr() for t in tensors])
    partials = Partials(table, 0, dtype)
    sums = torch.empty(max(partials.count, 1), dtype=torch.float64, device=device)
    partials.sum(norm_type, sums)
    norms = torch.empty(len(tensors), dtype=torch.float64 if dtype == torch.float64 else torch.float32, device=device)
    firsts = upload(array("q", partials.firsts()), device)
    with current(device):
        args = (sums, firsts, norms, norm_type, 128)
        runtime.active.start(tensor_norm_kernel, tensor_norm_kernel[(len(tensors),)], args, LAUNCH_OPTIONS)
    return norms


class GlobalNorm:
    """Total norm and clipping coefficient over several tables on one device.

    Args:
        parts: the partial sums that the norm is made of.
        device: the device of all of them.
    """

    def __init__(self, parts: Sequence[Partials], device: torch.device) -> None:
        self.parts, self.device = parts, device
        self._settings = Uploaded("d", device)  # a kernel's own arguments are float32
        self._kernels = CompiledKernels()
        self.count = sum(part.count for part in parts)
        self.sums = torch.zeros(max(self.count, 1), dtype=torch.float64, device=device)
        wide = all(part.dtype == torch.float64 for part in parts)
        self.compute = torch.float64 if wide else torch.float32

    def measure(
        self,
        norm_type: float,
        max_norm: float,
        skip_nonfinite: bool,
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
        result: Tensor,
        over_ranks: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Launch one pass for each table and one block that adds them up; nothing waits.

        Args:
            norm_type: order of the norm.
            max_norm: the largest norm that is let through.
            skip_nonfinite: whether a norm that is not finite asks for the step to be left out.
            grad_scale: the gradients are still to be divided by this.
            found_inf: where it holds a value other than zero, the step is to be left out.
            result: receives total norm, coefficient, whether to skip the step, and steps skipped so far; float64, (4,).
            over_ranks: turns the sums over parts of the tensors on this rank into sums over those of all ranks.
        """
        first = 0
        for part in self.parts:
            part.sum(norm_type, self.sums[first:])
            first += part.count
        sums, count, compute = self.sums, self.count, self.compute
        if over_ranks is not None:
            sums = over_ranks(sums)
            count, compute = len(sums), torch.float64
        with current(self.device):
            args = (
                sums,
                result,
                grad_scale,
                found_inf,
                self._settings((max_norm,)),
                count,
                norm_type,
                skip_nonfinite,
                TRITON_DTYPES[compute],
                FINISH,
            )
            dtypes = tuple(None if tensor is None else tensor.dtype for tensor in (grad_scale, found_inf))
            specialization = (dtypes, norm_type, skip_nonfinite, compute)
            self._kernels.run(coefficient_kernel, 1, specialization, args, LAUNCH_OPTIONS | {"num_warps": 8})


class UnitCoefficients:
    """Adaptive gradient clipping: a coefficient for every unit of every parameter.

    Args:
        table: with parameters and gradients as its first two columns.
        unit_sizes: elements of a unit, for each tensor.
        dtypes: of parameters and of gradients.

    Attributes:
        coefficients: float64, shape (units,); `units`: sizes and first units, shape (2, tensors).
    """

    def __init__(self, table: TensorTable, unit_sizes: list[int], dtypes: tuple[torch.dtype, torch.dtype]) -> None:
        self.table, self.dtypes = table, dtypes
        self._settings = Uploaded("d", table.device)
        self._kernels = CompiledKernels()
        counts = [numel // size if size else 0 for numel, size in zip(table.numels, unit_sizes)]
        device = table.device
        self.map = upload(chunk_map(counts, 1), device)
        units = torch.tensor([unit_sizes, list(accumulate(counts, initial=0))[:-1]], dtype=torch.int64, device="cpu")
        self.units = upload(units, device)
        self.coefficients = torch.ones(max(len(self.map), 1), dtype=torch.float64, device=device)

    def measure(self, clipping: float, eps: float, grad_scale: Tensor | None) -> None:
        """Launch one program for each unit."""
        if len(self.map) == 0:
            return
        compute = torch.float64 if torch.float64 in self.dtypes else torch.float32
        with current(self.table.device):
            args = (
                self.table.data,
                self.map,
                self.units,
                self.coefficients,
                grad_scale,
                self._settings((clipping, eps)),
                self.table.n,
                TRITON_DTYPES[self.dtypes[0]],
                TRITON_DTYPES[self.dtypes[1]],
                TRITON_DTYPES[compute],
                UNIT,
            )
            specialization = None if grad_scale is None else grad_scale.dtype
            self._kernels.run(unit_kernel, len(self.map), specialization, args, LAUNCH_OPTIONS)
