"""The route through our kernels: one update launch for all tensors of one signature, whatever their group."""

from collections.abc import Callable, Generator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from . import backend
from .assignment import Assignment
from .batch import DenseBatch
from .clip import Clip, CutCoefficients, KernelClip, StepInputs
from .counters import DeviceCounters, HostCounters
from .guard import addresses_of
from .parts import sharing_memory
from .spec import Algorithm, Group
from .storage import Noise

# What a rule's own scalars may raise.
_OF_SCALARS: tuple[type[Exception], ...] = (ValueError, ArithmeticError, IndexError, TypeError)


class KernelBatch(DenseBatch):
    """Tensors of all groups that share device, dtypes and spec.

    Args:
        noise: what their noise depends on, if they are stored by codecs that round by it.
    """

    writes_gradients = False

    def __init__(
        self, algorithm: Algorithm, assignment: Assignment, clip: Clip | None, noise: Noise | None = None
    ) -> None:
        super().__init__(algorithm, assignment, clip)
        spec, self.counts_on_device = self.spec, assignment.counts_on_device
        self._clip = (clip.in_kernel() if clip is not None else None) or KernelClip()
        if spec.counts_steps and self.counts_on_device:
            self.counters = DeviceCounters(self.states, self.device, spec.counters)
        elif spec.counts_steps:
            self.counters = HostCounters(self.states)
        self._products = [] if self.counts_on_device else [HostCounters(self.states, name) for name in spec.products]
        self._products_before: list[list[float]] = []
        self._has_run = False
        self._before: Tensor | None = None  # products of the step before, while the update may not compile
        # Rules without a step counter are told only whether this is a parameter's first step, as step 1 or 2.
        self._first_or_later = [1.0 if new and self.counters is None else 2.0 for new in self.new]
        launch = backend.layers.LayerUpdate if spec.layerwise else backend.launch.MultiTensorUpdate
        columns, codecs = [self.dense, self.grads, *self.columns], None
        if spec.columns:
            (weight, *states), dtypes = spec.columns, (self.dense[0].dtype, self.grads[0].dtype)
            stored = [(weight.kind, dtypes[0]), ("plain", dtypes[1]), *((one.kind, one.dtype) for one in states)]
            codecs = backend.codecs.Codecs(backend.codecs.of_kind(*one) for one in stored)
        self._launch = launch(spec.rule, spec.options, columns, codecs, noise)
        self._addresses: list[int] = []
        self._used_groups = list(dict.fromkeys(self.group_of))
        self._row_by_group = [self._used_groups.index(i) for i in self.group_of]
        self._partial_sums: Any = None
        self._unit_coefficients: Any = None
        self._cut_units: Tensor | None = None

    def gather(self) -> bool:
        if not (super().gather() and all(map(HostCounters.find, self._products))):
            return False
        addresses = addresses_of(chain(self.dense, self.grads, *self.columns))
        if addresses != self._addresses:  # else it stays the same list, which need not be uploaded again
            count = len(self.params) if self._addresses else 0
            if addresses[:count] != self._addresses[:count] and sharing_memory(self.params):
                return False
            self._addresses = addresses
        return True

    def update(self, groups: list[Group], inputs: StepInputs) -> bool:
        gradients = self._derive(groups, inputs)
        self._or_take_back(inputs, self._launch.run, self._addresses, gradients)
        return False

    def update_layers(self, groups: list[Group], inputs: StepInputs) -> Generator[Tensor, Tensor, bool]:
        gradients = self._derive(groups, inputs)
        whole = yield self._or_take_back(inputs, self._launch.sums_of_squares, self._addresses, gradients)
        self._or_take_back(inputs, self._launch.apply, whole, gradients)
        return False

    def _derive(self, groups: list[Group], inputs: StepInputs) -> Any:
        """Count the step and derive its scalars; return what the kernels are to do to gradients."""
        bound, values = self._clip.clip_value, self.spec.values
        raw = [
            (-1.0 if group["maximize"] else 1.0, bound or 0.0, group.get("l1", 0.0), *values(group))
            for group in map(groups.__getitem__, self._used_groups)
        ]
        gradients = backend.launch.UNCHANGED
        if self.clip is not None or inputs.grad_scale is not None or inputs.found_inf is not None:
            gradients = backend.launch.Gradients(
                scale=inputs.grad_scale,
                coefficient=inputs.coefficient,
                found_inf=inputs.found_inf,
                by_value=bound is not None,
                units=self._units(*self._clip.units, inputs) if self._clip.units is not None else None,
            )
        self._before = None
        if self.counts_on_device:
            if self.spec.products and not self._has_run and isinstance(self.counters, DeviceCounters):
                self._before = torch.stack(self.counters.products())  # in case the update cannot be compiled
            self._derive_on_device(raw, inputs.found_inf)
        else:
            self._derive_on_host(raw)
        return gradients

    def _or_take_back(self, inputs: StepInputs, launch: Callable[..., Any], *args: Any) -> Any:
        """Launch, or undo the counting of the step if the rule fails."""
        try:
            result = launch(*args)
        except backend.compiler_errors() as error:
            self._take_back(inputs.found_inf, self._before)
            raise RuntimeError(self._why_the_rule_failed(error)) from error
        self._has_run = True
        return result

    def _take_back(self, found_inf: Tensor | None = None, products: Tensor | None = None) -> None:
        """Undo the counting of a step that has failed."""
        if isinstance(self.counters, HostCounters):
            self.counters.take_back()
            for product, values in zip(self._products, self._products_before):
                product.set(values)
        elif self.counters is not None:
            self.counters.take_back(found_inf)
            if products is not None:
                torch._foreach_copy_(self.counters.products(), list(products.unbind()))

    def _why_the_rule_failed(self, error: BaseException) -> str:
        while error.__cause__ is not None:  # the interpreter wraps an error once for each function
            error = error.__cause__
        names, hyperparameters = self.spec.state_names, self.spec.hyperparameters
        return (
            f"{self.algorithm.name}: the rule failed ({type(error).__name__}: {error}). Its scalars are given the "
            f"hyperparameters {hyperparameters}, a tuple among them as its elements. Its update is given {len(names)} "
            f"states, state_names={names}, and must return the parameter and a tuple of as many. Of functions, the "
            "update may call those of triton.language and of torch_gd.triton_kernels.rule"
        )

    def partial_sums(self) -> Any:
        self._launch.table.set_addresses(self._addresses)
        if self._partial_sums is None:
            self._partial_sums = backend.measure.Partials(self._launch.table, 1, self.grads[0].dtype)
        return self._partial_sums

    def _units(self, clipping: float, eps: float, inputs: StepInputs) -> tuple[Tensor, Tensor]:
        self._launch.table.set_addresses(self._addresses)
        if self._unit_coefficients is None:
            sizes = [p.numel() // len(p) if p.dim() > 1 and len(p) else p.numel() for p in self.dense]
            dtypes = (self.dense[0].dtype, self.grads[0].dtype)
            self._unit_coefficients = backend.measure.UnitCoefficients(self._launch.table, sizes, dtypes)
        coefficients: Tensor = self._unit_coefficients.coefficients
        self._unit_coefficients.measure(clipping, eps, inputs.grad_scale)
        if inputs.cut_units is not None:
            if self._cut_units is None:
                self._cut_units = backend.table.upload(self._find_cut_units(inputs.cut_units), self.device)
            to, source = self._cut_units
            coefficients.index_copy_(0, to, inputs.cut_units.values.index_select(0, source))
        return coefficients, self._unit_coefficients.units

    def _find_cut_units(self, cut: CutCoefficients) -> Tensor:
        """Return where the coefficients of units that are cut belong, and where they are; int64, shape (2, units)."""
        to: list[int] = []
        source: list[int] = []
        first = 0
        for p in self.params:
            count = 0 if p.numel() == 0 else len(p) if p.dim() > 1 else 1
            if id(p) in cut.firsts:
                to += range(first, first + count)
                source += range(cut.firsts[id(p)], cut.firsts[id(p)] + count)
            first += count
        return torch.tensor([to, source], dtype=torch.int64, device="cpu")

    def _derive_on_host(self, raw: list[tuple[Any, ...]]) -> None:
        values = [tuple(map(float, row)) for row in raw]  # fails, if it does, before anything has counted
        steps = self._first_or_later
        if isinstance(self.counters, HostCounters):
            self.counters.advance()
            steps = self.counters.values()
        try:
            self._launch.derive_on_host(*self._raw_on_host(values, steps))
        except _OF_SCALARS as error:
            self._take_back()
            raise RuntimeError(self._why_the_rule_failed(error)) from error

    def _raw_on_host(
        self, values: list[tuple[float, ...]], steps: list[float]
    ) -> tuple[list[int], list[tuple[float, ...]]]:
        """Return the row of each tensor, and the rows; products are advanced first."""
        if not self._products:
            rows, keys = self._rows_of(steps)
            return rows, [(step, *values[i]) for i, step in keys]
        rows, keys = self._rows_of(steps)
        factors = [self.spec.rule.factors_on_host(step, values[i][3:]) for i, step in keys]
        self._products_before = list(map(HostCounters.values, self._products))
        for product, column in zip(self._products, zip(*factors)):
            product.multiply([column[row] for row in rows])
        rows, keys = self._rows_of(list(zip(steps, *map(HostCounters.values, self._products))))
        return rows, [(step, *values[i], *products) for i, (step, *products) in keys]

    def _derive_on_device(self, raw: list[tuple[Any, ...]], found_inf: Tensor | None) -> None:
        counters = self.counters if isinstance(self.counters, DeviceCounters) else None
        rows, keys = self._rows_of(self._first_or_later)
        tensors: dict[tuple[int, int], Tensor] = {}
        values: Sequence[Sequence[float]] = raw
        if not set(map(type, chain.from_iterable(raw))) <= {float, int, bool}:
            values = [[0.0 if must_stay_on_device(value) else float(value) for value in row] for row in raw]
            tensors = {
                (row, 1 + place): value
                for row, (i, _) in enumerate(keys)
                for place, value in enumerate(raw[i])
                if must_stay_on_device(value)
            }
        try:
            self._launch.derive_on_device(
                rows,
                [(step, *values[i], *(0.0 for _ in self.spec.products)) for i, step in keys],
                tensors,
                None if counters is None else counters.addresses,
                torch.float32 if counters is None else counters.dtype,
                found_inf,
            )
        except backend.compiler_errors() + _OF_SCALARS as error:
            raise RuntimeError(self._why_the_rule_failed(error)) from error

    def _rows_of(self, steps: list[Any]) -> tuple[list[int], list[tuple[int, Any]]]:
        """Return the row of scalars of each tensor, and (group, step) of each row; a step may be a tuple."""
        if steps.count(steps[0]) == len(steps):  # almost always: one row for each group
            return self._row_by_group, [(i, steps[0]) for i in range(len(self._used_groups))]
        keys = list(dict.fromkeys(zip(self._row_by_group, steps)))
        row_of = {key: row for row, key in enumerate(keys)}
        return [row_of[key] for key in zip(self._row_by_group, steps)], keys


def must_stay_on_device(value: Any) -> bool:
    """Return whether the host must not read a hyperparameter, for which it would wait."""
    return isinstance(value, Tensor) and (value.device.type != "cpu" or backend.interpreted())
