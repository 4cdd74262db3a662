"""The host's side of the update: one launch over any number of tensors, and its prologue. Knows no algorithm."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

import torch
import triton
from torch import Tensor

from .handle import Handles
from .multi_tensor import scalars_kernel, update_kernel
from .rule import Rule
from .table import ADDRESSES, ROW, TRITON_DTYPES, TensorTable, Uploaded, current, staged

INTERPRETED = not isinstance(update_kernel, triton.JITFunction)
# Warps, `block_size`, a program a chunk and no eviction hints: by registers and bytes in flight (`benchmarks codegen`),
# for every GPU alike. Unproven until measured on one.
NUM_WARPS = 4
# Fused multiply-add as in torch's own CUDA kernels; explicit, since Triton's default differs between versions.
LAUNCH_OPTIONS = {"num_warps": NUM_WARPS, "enable_fp_fusion": True}


def block_size(compute: torch.dtype, warp_size: int = 32) -> int:
    """Elements a program updates: 8 a thread give bfloat16 128-bit accesses, 2 keep float64 from spilling."""
    if INTERPRETED:
        return 1 << 12  # the interpreter's cost is by program, hardly by element
    return (2 if compute == torch.float64 else 8) * warp_size * NUM_WARPS


def slice_size(block: int) -> int:
    """Elements at a time of a chunk that is not whole or not aligned."""
    return block if INTERPRETED else block // 8


def needs_exact(dtypes: Sequence[torch.dtype]) -> bool:
    """Whether division and square root must be correctly rounded: unless all is read and stored in half precision.

    What is stored there is rounded by 2⁻¹² at least, in which two ulps of float32 are lost; and with half as many bytes
    to wait for, the IEEE forms would take more of a B200's issue slots than `tests/test_codegen.py` allows.
    """
    return any(dtype.itemsize > 2 for dtype in dtypes)


def serves(tensor: Tensor) -> bool:
    """Whether the kernels can update this tensor here: on a GPU, or on the CPU where they are interpreted."""
    if tensor.dtype not in TRITON_DTYPES:
        return False
    if INTERPRETED:
        return tensor.device.type == "cpu"
    return tensor.device.type == "cuda" and _capable(tensor.device)


def _capable(device: torch.device) -> bool:
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)


def warp_size(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).warp_size) if device.type == "cuda" else 32


@dataclass(frozen=True)
class Gradients:
    """What is to be done to gradients as they are read; nothing by default.

    Args:
        scale: they are divided by this, a one-element tensor on their device.
        coefficient: they are multiplied by this, likewise.
        found_inf: where it holds a value other than zero, nothing is updated and nothing counted.
        by_value: whether the rows' bound clamps them.
        units: coefficients of units, and the (unit size, first unit) of each tensor: shapes (units,) and (2, tensors).
    """

    scale: Tensor | None = None
    coefficient: Tensor | None = None
    found_inf: Tensor | None = None
    by_value: bool = False
    units: tuple[Tensor, Tensor] | None = None


class MultiTensorUpdate:
    """One update launch over a fixed list of tensors, each the same mix of dtypes.

    A row of scalars holds the factor of the gradient (-1 to maximize), the bound that clamps it, the L1 penalty, and
    the hyperparameters, of which the learning rate is the first.

    Args:
        rule: the arithmetic.
        options: the rule's compile-time options.
        columns: parameters, gradients and each state, lists of equal length; elements are dense, in one order a tensor.

    Example:
        >>> update = MultiTensorUpdate(rules.SGD, (), [params, grads])
        >>> update.derive_on_host([0] * len(params), [(2.0, 1.0, 0.0, 0.0, 0.1, 0.0)])
        >>> update.run([[t.data_ptr() for t in column] for column in (params, grads)], Gradients())
    """

    def __init__(self, rule: Rule, options: tuple[Any, ...], columns: Sequence[Sequence[Tensor]]) -> None:
        self.rule, self.options = rule, options
        self.device = columns[0][0].device
        dtypes = [column[0].dtype for column in columns]
        self.compute = torch.float64 if torch.float64 in dtypes else torch.float32
        self.dtypes = tuple(TRITON_DTYPES[dtype] for dtype in dtypes)
        self.exact = needs_exact(dtypes)
        self.block = block_size(self.compute, warp_size(self.device))
        self.table = TensorTable([p.numel() for p in columns[0]], len(columns), self.device)
        self.chunks = self.table.chunks(self.block)
        self.programs = len(self.chunks)
        self._own_rows = list(range(self.table.n))
        self.width = 0  # scalars a row
        self.l1 = False
        self._scalars = torch.empty(0, dtype=self.compute, device=self.device)
        self._last: Any = None
        self._raw = Uploaded("d", self.device)
        self._raw_rows, self._raw_addresses, self._counters = (Uploaded("q", self.device) for _ in range(3))
        self._handles = Handles()

    def derive_on_host(self, rows: list[int], raw: list[tuple[float, ...]]) -> None:
        """Derives the scalars here.

        Args:
            rows: which row is each tensor's.
            raw: step, factor, bound, L1 penalty and hyperparameters, a row each.
        """
        self.table.set(ROW, rows)
        if raw != self._last:
            scalars = [(f, bound, l1 * h[0], *self.rule.on_host(step, tuple(h))) for step, f, bound, l1, *h in raw]
            flat = array("d" if self.compute == torch.float64 else "f", chain.from_iterable(scalars))
            self._reserve(raw, len(raw))
            self._scalars.copy_(staged(flat, self.device), non_blocking=True)
            self._last = raw

    def derive_on_device(
        self,
        rows: list[int],
        raw: list[tuple[float, ...]],
        raw_tensors: dict[tuple[int, int], Tensor],
        counters: list[int] | None,
        counter_dtype: torch.dtype,
        found_inf: Tensor | None,
    ) -> None:
        """Launches the prologue, which advances counters and derives the scalars there.

        Args:
            rows: which row of `raw` is each tensor's.
            raw: as for `derive_on_host`.
            raw_tensors: by (row, place), values that live on the device and take the place of the one in `raw`.
            counters: addresses of counters on the device, one a tensor, which this launch advances. The host cannot
                know which of them are equal, so that each tensor then has a row of scalars of its own.
            counter_dtype: theirs.
            found_inf: where it holds a value other than zero, nothing is advanced.
        """
        count = len(raw) if counters is None else self.table.n
        self.table.set(ROW, rows if counters is None else self._own_rows)
        tensors = {place: tensor.detach().to(self.device, non_blocking=True) for place, tensor in raw_tensors.items()}
        dtypes = {tensor.dtype for tensor in tensors.values()}
        if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
            tensors = {place: tensor.to(torch.float64) for place, tensor in tensors.items()}
            dtypes = {torch.float64}
        addresses = [0] * (len(raw) * len(raw[0])) if tensors else []
        for (row, place), tensor in tensors.items():
            addresses[row * len(raw[0]) + place] = tensor.data_ptr()
        self._reserve(raw, count)
        block = 128
        constexprs = (
            self.rule.on_device,
            len(raw[0]),
            self.width,
            TRITON_DTYPES[next(iter(dtypes), torch.float32)],
            TRITON_DTYPES[counter_dtype],
            block,
        )
        args = (
            self._raw(list(chain.from_iterable(raw))),
            None if counters is None else self._raw_rows(rows),
            self._raw_addresses(addresses) if tensors else None,
            None if counters is None else self._counters(counters),
            found_inf,
            self._scalars,
            count,
            *constexprs,
        )
        which = ("scalars", bool(tensors), counters is None, None if found_inf is None else found_inf.dtype, constexprs)
        with current(self.device):
            self._handles.run(scalars_kernel, triton.cdiv(count, block), which, args, LAUNCH_OPTIONS)

    def run(self, addresses: list[list[int]], gradients: Gradients) -> None:
        """The update launch, over parameters, gradients and states at `addresses`."""
        for i, column in enumerate(addresses):
            self.table.set(ADDRESSES + i, column)
        if self.programs == 0:
            return
        coefficients, units = gradients.units or (None, None)
        on_device = (gradients.scale, gradients.coefficient, gradients.found_inf, coefficients, units)
        args = (
            self.table.data,
            self.chunks,
            self._scalars,
            *on_device,
            self.table.n,
            self.rule.update,
            self.options,
            self.dtypes,
            TRITON_DTYPES[self.compute],
            self.exact,
            gradients.by_value,
            self.l1,
            self.width,
            self.block,
            slice_size(self.block),
        )
        dtypes = tuple(None if tensor is None else tensor.dtype for tensor in on_device)
        which = ("update", dtypes, gradients.by_value, self.l1, self.width)
        with current(self.device):
            self._handles.run(update_kernel, self.programs, which, args, LAUNCH_OPTIONS)

    def _reserve(self, raw: list[tuple[float, ...]], count: int) -> None:
        self.width = 3 + scalars_of(self.rule, len(raw[0]) - 4)
        self.l1 = any(row[3] != 0 for row in raw)
        if self._scalars.numel() != count * self.width:
            self._scalars = torch.empty(count * self.width, dtype=self.compute, device=self.device)


@cache
def scalars_of(rule: Rule, hyperparameters: int) -> int:
    """How many scalars a rule derives."""
    return len(rule.on_host(1.0, (0.5,) * hyperparameters))
