"""The host's side of the update: one launch over any number of tensors, and its prologue. Knows no algorithm."""

from array import array
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from .codecs import Codec, Codecs, plain
from .handle import CompiledKernels
from .multi_tensor import HEAD, scalars_kernel, update_kernel
from .rule import Rule
from .runtime import INTERPRETED
from .table import TRITON_DTYPES, TensorTable, Uploaded, current, staged

# Four warps, `block_size`, one program a chunk and no eviction hints: chosen by registers and bytes in flight
# (`python -m benchmarks codegen`), the same for every GPU. Unproven until measured on one.
NUM_WARPS = 4
# Fused multiply-add as in torch's own CUDA kernels; explicit, since Triton's default differs between versions.
LAUNCH_OPTIONS = {"num_warps": NUM_WARPS, "enable_fp_fusion": True}
PROLOGUE_BLOCK = 128  # rows of scalars that one program of the prologue derives


def block_size(compute: torch.dtype, warp_size: int = 32) -> int:
    """Return how many elements a program updates.

    Eight a thread give bfloat16 128-bit accesses, and two keep float64 from spilling registers.
    """
    if INTERPRETED:
        return 1 << 12  # the interpreter's cost is by program, hardly by element
    return (2 if compute == torch.float64 else 8) * warp_size * NUM_WARPS


def slice_size(block: int) -> int:
    """Return how many elements at a time are updated of a chunk that is not whole or not aligned."""
    return block if INTERPRETED else block // 8


def access_size(codecs: Iterable[Codec]) -> int:
    """Return how many elements one access takes: 16 bytes of the widest dtype, and as many elements of every other.

    Were narrower columns read 16 bytes at a time as well, threads would have to exchange what they have read.
    """
    widest: int = max(dtype.primitive_bitwidth for codec in codecs for dtype in codec.by_element)
    return 128 // widest


def needs_exact(codecs: Iterable[Codec]) -> bool:
    """Return whether division and square root must be correctly rounded: unless nothing keeps more than half precision.

    Values stored in half precision are rounded by 2⁻¹² at least, in which two ulps of float32 are lost. With half as
    many bytes to wait for, the IEEE forms would take more of a B200's issue slots than `tests/test_codegen.py` allows.
    """
    return any(codec.exact for codec in codecs)


def warp_size(device: torch.device) -> int:
    """Return how many threads a warp has: 32 on NVIDIA's GPUs, 64 on AMD's."""
    return int(torch.cuda.get_device_properties(device).warp_size) if device.type == "cuda" else 32


class Gradients(NamedTuple):
    """What the update does to gradients as it reads them; nothing by default.

    Args:
        scale: gradients are divided by this one-element tensor on their device.
        coefficient: gradients are multiplied by this one-element tensor on their device.
        found_inf: where it holds a value other than zero, nothing is updated and nothing counted.
        by_value: whether each row's bound clamps the gradient.
        units: coefficients of units, and the (unit size, first unit) of each tensor: shapes (units,) and (2, tensors).
    """

    scale: Tensor | None = None
    coefficient: Tensor | None = None
    found_inf: Tensor | None = None
    by_value: bool = False
    units: tuple[Tensor, Tensor] | None = None


UNCHANGED = Gradients()


class Pass(NamedTuple):
    """A launch over all chunks: what differs between the two of a layer-wise rule, and the one of any other.

    Args:
        chunks: the map of chunks.
        block: elements of a chunk.
        rule: functions of the rule: `update`, `direction` and `advance`, None for those that the pass does not call.
        stores: whether it stores the states.
        partials: receives the sums of squares, of the pass that measures; shape (2, chunks).
        ratios: what scales each tensor's step, for the pass that applies it.
    """

    chunks: Tensor
    block: int
    rule: tuple[Any, Any, Any]
    stores: bool = True
    partials: Tensor | None = None
    ratios: Tensor | None = None


class MultiTensorUpdate:
    """One update launch over a fixed list of tensors, all with the same mix of dtypes.

    A row of scalars holds the factor of the gradient (-1 to maximize), the bound that clamps it, the L1 penalty, and
    the hyperparameters, of which the learning rate is the first.

    Args:
        rule: the arithmetic.
        options: the rule's compile-time options.
        columns: parameters, gradients and each state, lists of equal length. The elements of a tensor are dense, and in
            one order in all columns. What codecs store of parameters besides the first column comes before the states.
        codecs: of parameter, gradient and each state. Default: plain ones.
        noise: for codecs that round by it: a key for each tensor, and the number of its first element in the whole.

    Example:
        >>> import torch
        >>> from torch_gd.triton_kernels import launch, rules
        >>> params, grads = [torch.ones(3)], [torch.ones(3)]
        >>> update = launch.MultiTensorUpdate(rules.SGD, (), [params, grads])
        >>> update.derive_on_host([0], [(2.0, 1.0, 0.0, 0.0, 0.25, 0.0)])  # step, factor, bound, l1, lr, weight_decay
        >>> update.run([t.data_ptr() for t in (*params, *grads)], launch.UNCHANGED)
        >>> params
        [tensor([0.7500, 0.7500, 0.7500])]
    """

    def __init__(
        self,
        rule: Rule,
        options: tuple[Any, ...],
        columns: Sequence[Sequence[Tensor]],
        codecs: Codecs | None = None,
        noise: Sequence[list[int]] | None = None,
    ) -> None:
        self.rule, self.options = rule, options
        self.device = columns[0][0].device
        dtypes = [column[0].dtype for column in columns]
        self.compute = torch.float64 if torch.float64 in dtypes else torch.float32
        self.codecs = codecs or Codecs(plain(TRITON_DTYPES[dtype]) for dtype in dtypes)
        self.exact = needs_exact(self.codecs)
        self._each = access_size(self.codecs)
        self._on_device = current(self.device)
        self._typecode = "d" if self.compute == torch.float64 else "f"
        self.block = block_size(self.compute, warp_size(self.device))
        self.table = TensorTable([p.numel() for p in columns[0]], len(columns), self.device, noise)
        self.chunks = self.table.chunks(self.block)
        self.update = Pass(self.chunks, self.block, (rule.update, None, None))
        self._own_rows = list(range(self.table.n))
        self.width = 0  # scalars a row
        self.l1 = False
        self._rows = 0  # rows of scalars there is room for
        self._scalars = torch.empty(0, dtype=self.compute, device=self.device)
        self._derived_from: Any = None
        # Specialization and arguments of launches that leave gradients unchanged, by what they measure.
        self._plain_calls: dict[bool, tuple[Any, tuple[Any, ...]]] = {}
        self._raw = Uploaded("d", self.device)
        self._raw_rows, self._raw_addresses, self._counters = (Uploaded("q", self.device) for _ in range(3))
        self._kernels = CompiledKernels()

    def derive_on_host(self, rows: list[int], raw: list[tuple[float, ...]]) -> None:
        """Derive the scalars here and upload them.

        Args:
            rows: which row is each tensor's.
            raw: step, factor, bound, L1 penalty and hyperparameters of each row.
        """
        self.table.set_rows(rows)
        if raw != self._derived_from:
            scalars: array[float] = array(self._typecode)
            for row in raw:
                lr, on_host = row[4], self.rule.on_host(row[0], row[4:])
                scalars.extend((row[1], row[2], row[3] * lr, row[0], *on_host))
            self._reserve(raw, len(raw))
            self._scalars.copy_(staged(scalars, self.device), non_blocking=True)
            self._derived_from = raw

    def derive_on_device(
        self,
        rows: list[int],
        raw: list[tuple[float, ...]],
        raw_tensors: dict[tuple[int, int], Tensor],
        counters: list[int] | None,
        counter_dtype: torch.dtype,
        found_inf: Tensor | None,
    ) -> None:
        """Launch the prologue, which advances counters and derives the scalars on the device.

        Args:
            rows: which row of `raw` is each tensor's.
            raw: as for `derive_on_host`.
            raw_tensors: by (row, place), values that live on the device and take the place of the one in `raw`.
            counters: addresses of counters on the device, one a tensor, which this launch advances; then those of
                products, for which `raw` ends in values that are not read. The host cannot know which of them are
                equal, so each tensor then has a row of scalars of its own.
            counter_dtype: dtype of the counters.
            found_inf: where it holds a value other than zero, no counter is advanced.
        """
        wide, count = len(raw[0]), len(raw) if counters is None else self.table.n
        self.table.set_rows(rows if counters is None else self._own_rows)
        tensors = {place: tensor.detach().to(self.device, non_blocking=True) for place, tensor in raw_tensors.items()}
        dtypes = {tensor.dtype for tensor in tensors.values()}
        if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
            tensors = {place: tensor.to(torch.float64) for place, tensor in tensors.items()}
            dtypes = {torch.float64}
        addresses = [0] * (len(raw) * wide) if tensors else []
        for (row, place), tensor in tensors.items():
            addresses[row * wide + place] = tensor.data_ptr()
        self._reserve(raw, count)
        products = 0 if counters is None else len(counters) // self.table.n - 1
        constexprs = (
            self.rule.on_device,
            self.rule.factors_on_device,
            wide,
            products,
            self.width,
            TRITON_DTYPES[next(iter(dtypes), torch.float32)],
            TRITON_DTYPES[counter_dtype],
            PROLOGUE_BLOCK,
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
        skips = None if found_inf is None else found_inf.dtype
        specialization = ("scalars", bool(tensors), counters is None, skips, constexprs)
        with self._on_device:
            self._kernels.run(scalars_kernel, triton.cdiv(count, PROLOGUE_BLOCK), specialization, args, LAUNCH_OPTIONS)

    def run(self, addresses: list[int], gradients: Gradients) -> None:
        """Launch the update.

        Args:
            addresses: of parameters, gradients and each state, one column after the other.
            gradients: what to do to gradients as they are read.
        """
        self.table.set_addresses(addresses)
        self.launch(self.update, gradients)

    def launch(self, one: Pass, gradients: Gradients) -> None:
        """Launch one pass over the chunks, if there are any."""
        if len(one.chunks) == 0:
            return
        measuring = one.partials is not None
        call = self._plain_calls.get(measuring) if gradients is UNCHANGED else None
        if call is None:
            call = self._call(one, gradients)
            if gradients is UNCHANGED:
                self._plain_calls[measuring] = call
        with self._on_device:
            self._kernels.run(update_kernel, len(one.chunks), *call, LAUNCH_OPTIONS)

    def _call(self, one: Pass, gradients: Gradients) -> tuple[Any, tuple[Any, ...]]:
        """Return the specialization of the kernel and its arguments."""
        coefficients, units = gradients.units or (None, None)
        on_device = (gradients.scale, gradients.coefficient, gradients.found_inf, coefficients, units)
        args = (
            self.table.data,
            one.chunks,
            self._scalars,
            *on_device,
            one.partials,
            one.ratios,
            self.table.n,
            *one.rule,
            self.options,
            self.codecs,
            TRITON_DTYPES[self.compute],
            self.exact,
            gradients.by_value,
            self.l1,
            one.stores,
            self.codecs.noisy,
            self.codecs.count,
            self.width,
            one.block,
            slice_size(one.block),
            self._each,
        )
        dtypes = tuple(None if tensor is None else tensor.dtype for tensor in on_device)
        return ("update", one.partials is None, dtypes, gradients.by_value, self.l1, self.width), args

    def _reserve(self, raw: list[tuple[float, ...]], count: int) -> None:
        l1 = any(row[3] for row in raw)
        if count == self._rows and l1 == self.l1:
            return
        self.width = HEAD.value + scalars_of(self.rule, len(raw[0]) - 4)
        self.l1, self._rows, self._plain_calls = l1, count, {}
        if self._scalars.numel() != count * self.width:
            self._scalars = torch.empty(count * self.width, dtype=self.compute, device=self.device)


@cache
def scalars_of(rule: Rule, hyperparameters: int) -> int:
    """Return how many scalars a rule derives from this many hyperparameters."""
    return len(rule.on_host(1.0, (0.5,) * hyperparameters))
