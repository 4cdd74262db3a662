"""Our kernels: one update launch for every tensor of one signature, whatever its group."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import backend
from .batch import DenseBatch, Step
from ..clipping.functions import ClipAdaptive, ClipByValue
from .counters import DeviceCounters, JoinedCounters
from .guard import Places

if TYPE_CHECKING:
    from ..optimizers.base import FusedOptimizer


PARAMETERS, GRADIENTS = 2, 3  # columns of a table


class TritonBatch(DenseBatch):
    """Tensors of all groups that share device, dtypes, rule and options.

    Args:
        rule: a `triton_kernels.rule.Rule`.
        options: its compile-time options.
        on_device: whether step counters, and hyperparameters that are tensors, are to be read by the GPU alone.
    """

    def __init__(
        self, optimizer: "FusedOptimizer", names: tuple[str, ...], rule: Any, options: tuple[Any, ...], on_device: bool
    ) -> None:
        super().__init__(optimizer, names)
        self.rule, self.options, self.on_device = rule, options, on_device
        self._partials: Any = None
        self._unit_coefficients: Any = None

    def freeze(self) -> None:
        super().freeze()
        columns = self.columns()
        self._update = backend.launch.MultiTensorUpdate(self.rule, self.options, [self.dense, self.grads, *columns])
        self._places = [Places(self.params), *map(Places, columns)]
        self._grad_places = Places(self.grads)
        self.addresses = [Places(self.dense).addresses, [], *(places.addresses for places in self._places[1:])]
        self._used = list(dict.fromkeys(self.group_of))
        self._rows_by_group = [self._used.index(i) for i in self.group_of]
        self._counters: JoinedCounters | DeviceCounters | None = None
        if "step" in self.states[0] and self.on_device:
            self._counters = DeviceCounters(self.states, self.params[0].device)
        elif "step" in self.states[0]:
            self._counters = JoinedCounters(self.states, self.optimizer.state.values())
        # All that rules which count nothing are told of a step: whether it is a parameter's first.
        self._first_or_later = [1.0 if new and self._counters is None else 2.0 for new in self.new]

    def unmoved(self, columns: list[list[Tensor]]) -> bool:
        return (
            self._places[0].hold(self.params)
            and all(places.hold(column) for places, column in zip(self._places[1:], columns))
            and (self._counters is None or self._counters.gather())
        )

    def gather(self) -> bool:
        if not super().gather():
            return False
        self._grad_places.follow(self.grads)
        self.addresses[1] = self._grad_places.addresses
        return True

    def update(self, step: Step) -> bool:
        groups = self.optimizer.param_groups
        bound = step.clip.clip_value if isinstance(step.clip, ClipByValue) else 0.0
        raw = {
            i: (
                -1.0 if groups[i]["maximize"] else 1.0,
                bound,
                groups[i].get("l1", 0.0),
                *self.optimizer.hyperparameters(groups[i]),
            )
            for i in self._used
        }
        if self.on_device:
            self._derive_on_device(raw, step.found_inf)
        else:
            self._derive_on_host(raw)
        gradients = backend.launch.Gradients(
            scale=step.grad_scale,
            coefficient=step.coefficient,
            found_inf=step.found_inf,
            by_value=isinstance(step.clip, ClipByValue),
            units=self._units(step.clip, step.grad_scale) if isinstance(step.clip, ClipAdaptive) else None,
        )
        self._update.run(self.addresses, gradients)
        return False

    def partials(self) -> Any:
        """The partial sums of the gradients' norm, over the update's own table."""
        self._update.table.set(GRADIENTS, self.addresses[1])
        if self._partials is None:
            self._partials = backend.measure.Partials(self._update.table, 1, self.grads[0].dtype)
        return self._partials

    def _units(self, clip: ClipAdaptive, grad_scale: Tensor | None) -> tuple[Tensor, Tensor]:
        for i, column in enumerate(self.addresses[:2]):
            self._update.table.set(PARAMETERS + i, column)
        if self._unit_coefficients is None:
            sizes = [p.numel() // len(p) if p.dim() > 1 and len(p) else p.numel() for p in self.dense]
            dtypes = (self.dense[0].dtype, self.grads[0].dtype)
            self._unit_coefficients = backend.measure.UnitCoefficients(self._update.table, sizes, dtypes)
        self._unit_coefficients.measure(clip.clipping, clip.eps, grad_scale)
        return self._unit_coefficients.coefficients, self._unit_coefficients.units

    def _derive_on_host(self, raw: dict[int, tuple[Any, ...]]) -> None:
        values = {i: tuple(map(float, row)) for i, row in raw.items()}  # fails, if it does, before anything has counted
        steps = self._first_or_later
        if isinstance(self._counters, JoinedCounters):
            self._counters.advance()
            steps = self._counters.values()
        rows, keys = self._rows_of(steps)
        self._update.derive_on_host(rows, [(step, *values[i]) for i, step in keys])

    def _derive_on_device(self, raw: dict[int, tuple[Any, ...]], found_inf: Tensor | None) -> None:
        counters = self._counters if isinstance(self._counters, DeviceCounters) else None
        rows, keys = self._rows_of(self._first_or_later)
        values = {i: [0.0 if _stays(value) else float(value) for value in row] for i, row in raw.items()}
        tensors = {
            (row, 1 + place): value
            for row, (i, _) in enumerate(keys)
            for place, value in enumerate(raw[i])
            if _stays(value)
        }
        self._update.derive_on_device(
            rows,
            [(step, *values[i]) for i, step in keys],
            tensors,
            None if counters is None else counters.addresses,
            torch.float32 if counters is None else counters.dtype,
            found_inf,
        )

    def _rows_of(self, steps: list[float]) -> tuple[list[int], list[tuple[int, float]]]:
        """A row for each group and step there is: each tensor's, and what each row is for."""
        if steps.count(steps[0]) == len(steps):  # as good as always: a row a group
            return self._rows_by_group, [(i, steps[0]) for i in self._used]
        keys = list(dict.fromkeys(zip(self.group_of, steps)))
        row_of = {key: row for row, key in enumerate(keys)}
        return [row_of[key] for key in zip(self.group_of, steps)], keys


def _stays(value: Any) -> bool:
    """Whether a hyperparameter must not be read by the host: on a GPU that would wait for it."""
    return isinstance(value, Tensor) and (value.device.type != "cpu" or backend.interpreted())
