"""Our kernels: one update launch for every tensor of one signature, whatever its group."""

from operator import itemgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import backend
from .batch import DenseBatch, Step
from .clip_grad import ClipAdaptive, ClipByValue

if TYPE_CHECKING:
    from .optimizer import FusedOptimizer


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
        self.first: list[bool] = []  # whether a state without a step counter is new

    def add(self, group_index: int, p: Tensor, state: dict[str, Any]) -> None:
        super().add(group_index, p, state)
        self.first.append(False)

    def freeze(self) -> None:
        super().freeze()
        grads = [p.grad for p in self.params]
        columns = [self.dense, grads, *([state[name] for state in self.states] for name in self.names)]
        self._update = backend.launch.MultiTensorUpdate(self.rule, self.options, columns)
        self._used = list(dict.fromkeys(self.group_of))
        self._rows_by_group = [self._used.index(i) for i in self.group_of]
        self._counts = "step" in self.states[0]
        if self._counts and self.on_device:
            self._steps_on_device()
        elif self._counts:
            self._join_steps()

    def _steps_on_device(self) -> None:
        device = self.params[0].device
        for state in self.states:
            if state["step"].device != device or state["step"].dtype not in (torch.float32, torch.float64):
                state["step"] = state["step"].to(device, torch.float32, non_blocking=True)
        if len({state["step"].dtype for state in self.states}) > 1:
            for state in self.states:
                state["step"] = state["step"].to(torch.float32)

    def _join_steps(self) -> None:
        """Makes the counters views of one buffer, so that one addition serves hundreds."""
        dtype = torch.promote_types(torch.float32, self.states[0]["step"].dtype)
        steps = [float(state["step"]) for state in self.states]
        self._buffer = torch.tensor(steps, dtype=dtype)
        for state, view in zip(self.states, self._buffer.unbind()):
            state["step"] = view
        self._step_addresses = [state["step"].data_ptr() for state in self.states]

    def gather(self) -> bool:
        if self._counts and not self.on_device:
            try:
                steps = list(map(itemgetter("step"), self.states))
                if (
                    list(map(Tensor.data_ptr, steps)) != self._step_addresses
                ):  # loaded, reset, or joined by another plan
                    if not all(step.device.type == "cpu" for step in steps):
                        return False
                    self._join_steps()
            except (AttributeError, KeyError, TypeError):  # not a tensor any more
                return False
        return super().gather()

    def update(self, step: Step) -> None:
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
        if self._counts:
            self._buffer.add_(1)
            steps = self._buffer.tolist()
        else:
            steps = [1.0 if first else 2.0 for first in self.first]
        if len(set(steps)) == 1:  # as good as always: a row a group
            keys, rows = [(i, steps[0]) for i in raw], self._rows_by_group
        else:
            keys = list(dict.fromkeys(zip(self.group_of, steps)))
            row_of = {key: row for row, key in enumerate(keys)}
            rows = [row_of[key] for key in zip(self.group_of, steps)]
        self._update.derive_on_host(rows, [(step, *values[i]) for i, step in keys])

    def _derive_on_device(self, raw: dict[int, tuple[Any, ...]], found_inf: Tensor | None) -> None:
        steps = [state["step"] for state in self.states] if self._counts else None
        counted = [2.0 if steps is not None or not first else 1.0 for first in self.first]
        keys = list(zip(self.group_of, counted))
        # A counter on the device can be read only there, so each tensor has a row of its own.
        row_keys = keys if self._counts else list(dict.fromkeys(keys))
        rows = list(range(len(keys))) if self._counts else [row_keys.index(key) for key in keys]
        tensors = {
            (row, 1 + place): value
            for row, (i, _) in enumerate(row_keys)
            for place, value in enumerate(raw[i])
            if _stays(value)
        }
        values = {i: [0.0 if _stays(value) else float(value) for value in row] for i, row in raw.items()}
        self._update.derive_on_device(rows, [(step, *values[i]) for i, step in row_keys], tensors, steps, found_inf)


def _stays(value: Any) -> bool:
    """Whether a hyperparameter must not be read by the host: on a GPU that would wait for it."""
    return isinstance(value, Tensor) and (value.device.type != "cpu" or backend.interpreted())
