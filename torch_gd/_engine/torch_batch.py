"""The routes through torch's own implementations, for everything that our kernels do not serve."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .batch import Batch, DenseBatch
from .clip import Clip, StepInputs
from .counters import PackedCounters
from .guard import Guard
from .layout import all_have_real_storage, all_on_cpu, has_real_storage, is_plain
from .parts import Part
from .soft_threshold import shrink_
from .spec import Algorithm, FusedTensors, Group, LoopTensors, TorchFlags, UpdateSpec, without_states

FEW = 4  # tensors up to which torch's for-loop is as fast as its foreach


class TorchFusedBatch(DenseBatch):
    """Tensors of one group for torch's fused kernels, which look at no stride.

    Args:
        group: the group, for what depends on its options.
        all_states: all states of the optimizer, whose counters are packed together.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        spec: UpdateSpec,
        parts: Sequence[Part],
        missing: list[bool],
        clip: Clip | None,
        group: Group,
        all_states: Any,
    ) -> None:
        some_states_missing = missing[0]
        super().__init__(algorithm, without_states(spec) if some_states_missing else spec, parts, missing, clip)
        self._numel = sum(map(Tensor.numel, self.params))
        numbers = not any(isinstance(value, Tensor) for value in spec.values(group))
        counters_on_cpu = all_on_cpu([state["step"] for state in self.states if "step" in state])
        # Over hundreds of small tensors, torch's functional wrapper takes longer than the kernel that it calls.
        self._call_kernel = spec.fused_cpu if numbers and counters_on_cpu and all_on_cpu(self.params) else None
        if some_states_missing:
            self._call_kernel = None
        if self._call_kernel is not None and "step" in self.states[0]:
            self.counters = PackedCounters(self.states, all_states)

    def update(self, groups: list[Group], inputs: StepInputs) -> bool:
        group, seen = groups[self.group_of[0]], False
        # torch's fused SGD would leave uninitialised memory as the momentum of a first step that is skipped.
        if self.clip is not None or (self.new[0] and inputs.found_inf is not None):
            if not treat_gradients(self, self.dense, inputs):
                return True
            inputs = StepInputs()
        if self._call_kernel is not None and inputs.grad_scale is None and inputs.found_inf is None:
            steps: list[Tensor] = []
            if isinstance(self.counters, PackedCounters):
                self.counters.advance()
                steps = self.counters.views
            fused = FusedTensors(self.dense, self.grads, self.columns, steps, self._numel)
            seen = self._call_kernel(group, fused)
        else:
            flags = TorchFlags(False, True, inputs.grad_scale, inputs.found_inf)
            self.algorithm.run_torch(with_strict_types(group), LoopTensors(self.dense, self.grads, self.states), flags)
        _apply_l1(self.dense, group)
        return seen


class TorchBatch(Batch):
    """Tensors of one group for torch's foreach or for-loop implementation, as the user says or torch chooses.

    Args:
        group: the group, for what depends on its options.
        one_by_one: whether a parameter is listed more than once, and must be updated as often, in order.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        spec: UpdateSpec,
        parts: Sequence[Part],
        missing: list[bool],
        clip: Clip | None,
        group: Group,
        one_by_one: bool,
    ) -> None:
        super().__init__(algorithm, without_states(spec) if missing[0] else spec, parts, missing, clip)
        tensors, states = [*self.params, *self.grads], self._fetch_states()
        plain = all(map(is_plain, tensors))
        self._guard = Guard([*tensors, *states]) if plain and all(map(is_plain, states)) else None
        self._kinds = self._kinds_of(self.grads, states)
        steps = {state["step"].dtype for state in self.states if isinstance(state.get("step"), Tensor)}
        self.foreach: bool | None = group["foreach"]
        if one_by_one:
            self.foreach = False
        elif plain and all_have_real_storage(tensors) and steps <= {torch.float32}:
            self.foreach = faster_foreach(spec, group, self.params)

    def _fetch_states(self) -> list[Any]:
        return [state.get(name) for name in self.spec.state_names for state in self.states]

    def _kinds_of(self, grads: Sequence[Tensor | None], states: list[Any]) -> list[object]:
        """Return what the slow check compares, for when there is no guard or it does not hold."""
        return [*map(_kind, self.params, grads), *(getattr(state, "shape", None) for state in states)]

    def gather(self) -> bool:
        grads, states = [p.grad for p in self.params], self._fetch_states()
        if self._guard is None or not self._guard.holds(*self.params, *grads, *states):
            if self._kinds_of(grads, states) != self._kinds:
                return False
        self.grads = grads  # type: ignore[assignment]  # none is None, as was just seen
        return True

    def run(self, groups: list[Group], inputs: StepInputs) -> None:
        group = groups[self.group_of[0]]
        fused = group.get("fused")
        # `fused` may be asked for where torch's fused kernels are wrong: the same step then takes another route.
        detour = fused and is_plain(self.params[0])
        if detour or self.clip is not None:
            if not treat_gradients(self, self.params, inputs):
                return
            inputs = StepInputs()
        flags = TorchFlags(self.foreach, None if detour else fused, inputs.grad_scale, inputs.found_inf)
        self.algorithm.run_torch(group, LoopTensors(self.params, self.grads, self.states), flags)
        _apply_l1(self.params, group)


def faster_foreach(spec: UpdateSpec, group: Group, params: list[Tensor]) -> bool | None:
    """Return the `foreach` to pass to torch: the user's, or the faster one where torch does not choose it."""
    choice: bool | None = group["foreach"]
    asked = choice is not None or group["differentiable"] or group.get("capturable")
    if asked or not spec.foreach_below or not all_on_cpu(params):
        return choice
    return len(params) >= FEW and sum(p.numel() for p in params) < spec.foreach_below * len(params)


def treat_gradients(batch: Batch, params: list[Tensor], inputs: StepInputs) -> bool:
    """Unscale and clip the gradients in place, as torch's functions do; return False if the step is to be left out.

    The host must know whether it is, as for torch's own unfused optimizers. On the CPU it need not wait for that.
    """
    if inputs.found_inf is not None and inputs.found_inf.item():
        return False
    if inputs.grad_scale is not None:
        for g in batch.grads:
            g.div_(inputs.grad_scale)
    if batch.clip is not None and batch.clip.in_kernel() is not None:  # else the plan has applied it
        if inputs.coefficient is None:
            batch.clip.apply(params, batch.grads)
        elif inputs.coefficient.device.type != "cpu" or inputs.coefficient != 1:  # reading it costs nothing there
            torch._foreach_mul_(list(batch.grads), inputs.coefficient)
    return True


def with_strict_types(group: Group) -> Group:
    """Return the group with bools and floats, on which torch's fused kernels insist where its default does not."""
    group = dict(group)
    for name in ("nesterov", "amsgrad", "maximize"):
        if name in group:
            group[name] = bool(group[name])
    if not isinstance(group["lr"], Tensor):
        group["lr"] = float(group["lr"])
    return group


def _kind(p: Tensor, g: Tensor | None) -> object:
    if g is None:
        return None
    return type(g), p.dtype, g.dtype, g.layout, p.device, p.shape, g.shape, has_real_storage(g)


def _apply_l1(params: list[Tensor], group: Group) -> None:
    l1 = group.get("l1", 0)
    if l1 == 0:
        return
    lr = group["lr"].reshape(()) if isinstance(group["lr"], Tensor) else float(group["lr"])
    shrink_(params, lr * l1)
