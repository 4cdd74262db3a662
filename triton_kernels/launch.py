"""The host's side of a launch: table, chunk map, what moved since the last step. Knows no algorithm either."""

from array import array
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .multi_tensor import scalars_kernel, update_kernel
from .rule import Rule

INTERPRETED = not isinstance(update_kernel, triton.JITFunction)
TRITON_DTYPES = {
    torch.float32: tl.float32,
    torch.float64: tl.float64,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}
NUMEL, ROW, ADDRESSES = 0, 1, 2  # the table's columns; addresses: parameter, gradient, states
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


def serves(tensor: Tensor) -> bool:
    """Whether the kernels can update this tensor here: on a GPU, or on the CPU where they are interpreted."""
    if tensor.dtype not in TRITON_DTYPES:
        return False
    if INTERPRETED:
        return tensor.device.type == "cpu"
    return tensor.device.type == "cuda" and _capable(tensor.device)


def _capable(device: torch.device) -> bool:
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)


def _warp_size(device: torch.device) -> int:
    return 32 if device.type == "cpu" else int(torch.cuda.get_device_properties(device).warp_size)


def staged(values: "array[Any] | Tensor", device: torch.device) -> Tensor:
    """A host array where a copy to the device does not wait for it.

    That is pinned memory which torch's caching host allocator keeps until the copy is done: a buffer of our own,
    rewritten every step, would race the copy still in flight from the step before.
    """
    host = values if isinstance(values, Tensor) else torch.frombuffer(values, dtype=_ARRAY_DTYPES[values.typecode])
    if device.type == "cpu":
        return host
    pinned = host.pin_memory()
    if torch.cuda.is_current_stream_capturing():
        _CAPTURED.append(pinned)
    return pinned


def upload(values: "array[Any] | Tensor", device: torch.device) -> Tensor:
    """A host array as a new device tensor, without waiting."""
    return staged(values, device).to(device, non_blocking=True)


_ARRAY_DTYPES = {"q": torch.int64, "f": torch.float32, "d": torch.float64}
_CAPTURED: list[Tensor] = []  # a replayed CUDA graph copies from these addresses again


def chunk_map(numels: Sequence[int], block: int) -> Tensor:
    """(tensor, chunk) of every program, as int32 pairs: shape (programs, 2)."""
    elements = torch.tensor(numels, dtype=torch.int64)
    counts = (elements + block - 1) // block
    tensors = torch.repeat_interleave(torch.arange(len(numels)), counts)
    first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    return torch.stack([tensors, torch.arange(len(tensors)) - first], dim=1).to(torch.int32)


class MultiTensorUpdate:
    """One update launch over a fixed list of tensors, each the same mix of dtypes.

    Args:
        rule: the arithmetic.
        options: the rule's compile-time options.
        columns: parameters, gradients and each state, lists of equal length; elements are dense, in one order a tensor.

    Example:
        >>> update = MultiTensorUpdate(rules.SGD, (), [params, grads])
        >>> update.derive_on_host([0] * len(params), [(1.0, 0.1, 0.0)])
        >>> update.run([[t.data_ptr() for t in column] for column in (params, grads)], None, None)
    """

    def __init__(self, rule: Rule, options: tuple[Any, ...], columns: Sequence[Sequence[Tensor]]) -> None:
        params = columns[0]
        self.rule, self.options = rule, options
        self.device = params[0].device
        dtypes = [column[0].dtype for column in columns]
        self.compute = torch.float64 if torch.float64 in dtypes else torch.float32
        self.dtypes = tuple(TRITON_DTYPES[dtype] for dtype in dtypes)
        self.block = block_size(self.compute, _warp_size(self.device))
        self.n = len(params)
        numels = [p.numel() for p in params]
        self.chunks = upload(chunk_map(numels, self.block), self.device)
        self.programs = len(self.chunks)
        self.table = torch.zeros((ADDRESSES + len(columns), self.n), dtype=torch.int64, device=self.device)
        self._columns: dict[int, list[int]] = {ROW: [0] * self.n}
        self.set_column(NUMEL, numels)
        self.width = 1  # scalars a row
        self._scalars = torch.empty(0, dtype=self.compute, device=self.device)
        self._last: Any = None
        self._kept: list[Tensor] = []

    def set_column(self, column: int, values: list[int]) -> None:
        """Uploads a column of the table if it is not what was uploaded last."""
        if self._columns.get(column) != values:
            self.table[column].copy_(staged(array("q", values), self.device), non_blocking=True)
            self._columns[column] = values

    def derive_on_host(self, rows: list[int], scalars: list[tuple[float, ...]]) -> None:
        """Hands over the rows of scalars, and which row is each tensor's."""
        self.set_column(ROW, rows)
        if scalars != self._last:
            flat = array("d" if self.compute == torch.float64 else "f", chain.from_iterable(scalars))
            self._reserve(len(scalars), len(scalars[0]))
            self._scalars[: len(flat)].copy_(staged(flat, self.device), non_blocking=True)
            self._last = scalars

    def derive_on_device(
        self,
        rows: list[int],
        raw: list[tuple[float, ...]],
        raw_tensors: dict[tuple[int, int], Tensor],
        steps: list[Tensor] | None,
        found_inf: Tensor | None,
    ) -> None:
        """Launches the prologue.

        Args:
            rows: which row is each tensor's; with `steps`, each tensor has its own.
            raw: step, factor of the gradient and hyperparameters, a row each.
            raw_tensors: by (row, place), values that live on the device and take the place of the one in `raw`.
            steps: counters on the device, one a row, which this launch advances.
            found_inf: where it holds a value other than zero, nothing is advanced.
        """
        self.set_column(ROW, rows)
        step_addresses = [] if steps is None else [step.data_ptr() for step in steps]
        tensors = {place: _as_scalar(tensor, self.device) for place, tensor in raw_tensors.items()}
        dtypes = {tensor.dtype for tensor in tensors.values()}
        if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
            tensors = {place: tensor.to(torch.float64) for place, tensor in tensors.items()}
            dtypes = {torch.float64}
        addresses = [0] * (len(raw) * len(raw[0])) if tensors else []
        for (row, place), tensor in tensors.items():
            addresses[row * len(raw[0]) + place] = tensor.data_ptr()
        if (raw, addresses, step_addresses) != self._last:
            # Kept for as long as they are current: a captured CUDA graph reads them again at each replay.
            self._kept = [
                upload(array("d", chain.from_iterable(raw)), self.device),
                upload(array("q", addresses or [0]), self.device),
                upload(array("q", step_addresses or [0]), self.device),
            ]
            self._last = (raw, addresses, step_addresses)
        self._reserve(len(raw), 1 + len(self.rule.on_host(1.0, (0.5,) * len(raw[0][2:]))))
        block = 128
        with _current(self.device):
            scalars_kernel[(triton.cdiv(len(raw), block),)](
                self._kept[0],
                self._kept[1] if tensors else None,
                self._kept[2] if steps is not None else None,
                found_inf,
                self._scalars,
                len(raw),
                self.rule.on_device,
                len(raw[0]),
                self.width,
                TRITON_DTYPES[next(iter(dtypes), torch.float32)],
                TRITON_DTYPES[torch.float32 if steps is None else steps[0].dtype],
                block,
                **LAUNCH_OPTIONS,
            )

    def run(self, addresses: list[list[int]], grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        """The update launch.

        Args:
            addresses: of parameters, gradients and each state.
            grad_scale: what the gradients are to be divided by, on this device.
            found_inf: where it holds a value other than zero, nothing is updated.
        """
        for i, column in enumerate(addresses):
            self.set_column(ADDRESSES + i, column)
        if self.programs == 0:
            return
        with _current(self.device):
            update_kernel[(self.programs,)](
                self.table,
                self.chunks,
                self._scalars,
                grad_scale,
                found_inf,
                self.n,
                self.rule.update,
                self.options,
                self.dtypes,
                TRITON_DTYPES[self.compute],
                self.width,
                self.block,
                slice_size(self.block),
                **LAUNCH_OPTIONS,
            )

    def _reserve(self, rows: int, width: int) -> None:
        self.width = width
        if len(self._scalars) < rows * width:
            self._scalars = torch.empty(rows * width, dtype=self.compute, device=self.device)


def _as_scalar(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.detach().to(device, non_blocking=True)


def _current(device: torch.device) -> AbstractContextManager[None]:
    """Triton launches on the current GPU, which need not be the tensors'."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
