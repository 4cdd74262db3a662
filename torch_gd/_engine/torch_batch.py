"""The routes through torch's own implementations, for everything that our kernels do not serve."""

from collections.abc import Generator, Sequence
from dataclasses import replace
from itertools import compress
from typing import Any

import torch
from torch import Tensor

from ..triton_kernels import runtime
from .assignment import Assignment
from .batch import Batch, DenseBatch
from .clip import Clip, StepInputs
from .counters import HostCounters
from .guard import Guard
from .layers import at_once, in_sums
from .layout import all_have_real_storage, all_on_cpu, has_real_storage, is_plain
from .soft_threshold import shrink_
from .spec import Algorithm, FusedTensors, Group, LoopTensors, TorchFlags

FEW = 4  # tensors up to which torch's for-loop is as fast as its foreach


class TorchFusedBatch(DenseBatch):
    """Tensors of one group for torch's fused kernels, which look at no stride.

    Args:
        group: the group, for what depends on its options.
    """

    def __init__(self, algorithm: Algorithm, assignment: Assignment, clip: Clip | None, group: Group) -> None:
        super().__init__(algorithm, without_missing_states(assignment), clip)
        spec = assignment.spec
        self._numel = sum(map(Tensor.numel, self.params))
        self._l1 = group.get("l1", 0) != 0
        numbers = not any(isinstance(value, Tensor) for value in spec.values(group))
        counters_on_cpu = all_on_cpu([state[name] for name in spec.counters for state in self.states])
        direct = numbers and counters_on_cpu and all_on_cpu(self.params) and not self.new[0]
        # Over hundreds of small tensors, torch's functional wrapper takes longer than the kernel that it calls.
        self._call_kernel = spec.fused_cpu if direct else None
        self._products: list[HostCounters] = []
        if self._call_kernel is not None and spec.counts_steps:
            self.counters = HostCounters(self.states)
            self._products = [HostCounters(self.states, name) for name in spec.products]

    def gather(self) -> bool:
        return super().gather() and all(map(HostCounters.find, self._products))

    def treat(self, inputs: StepInputs) -> StepInputs | None:
        # torch's fused SGD would leave uninitialised memory as the momentum of a first step that is skipped, and L1
        # follows the kernel, which alone would know that the step is skipped.
        by_scaler = inputs.grad_scale is not None or inputs.found_inf is not None
        if self.clip is not None or (by_scaler and (self.new[0] or self._l1 or not self.spec.torch_fuses)):
            return treat_gradients(self, self.dense, inputs)
        return inputs

    def update(self, groups: list[Group], inputs: StepInputs) -> bool:
        group = groups[self.group_of[0]]
        seen = self._call(group, inputs)
        if self.spec.layerwise:
            seen = at_once(seen, self.dense)
        apply_l1(self.dense, group)
        return bool(seen)

    def update_layers(self, groups: list[Group], inputs: StepInputs) -> Generator[Tensor, Tensor, bool]:
        group = groups[self.group_of[0]]
        seen = yield from in_sums(self._call(group, inputs), self.dense)
        apply_l1(self.dense, group)
        return bool(seen)

    def _call(self, group: Group, inputs: StepInputs) -> Any:
        """Call the fused kernel or torch's functional; return whether autograd has seen it, or a layer-wise step."""
        if self._call_kernel is not None and inputs.grad_scale is None and inputs.found_inf is None:
            steps: list[Tensor] = []
            if isinstance(self.counters, HostCounters):
                self.counters.advance()
                steps = self.counters.steps
            products = [counters.steps for counters in self._products]
            fused = FusedTensors(self.dense, self.grads, self.columns, steps, self._numel, products)
            return self._call_kernel(group, fused)
        flags = TorchFlags(False, True, inputs.grad_scale, inputs.found_inf)
        tensors = LoopTensors(self.dense, self.grads, self.states)
        return self.algorithm.run_torch(with_strict_types(group), tensors, flags)


class TorchBatch(Batch):
    """Tensors of one group for torch's foreach or for-loop implementation, as the user says or torch chooses.

    Args:
        group: the group, for what depends on its options.
    """

    def __init__(self, algorithm: Algorithm, assignment: Assignment, clip: Clip | None, group: Group) -> None:
        super().__init__(algorithm, without_missing_states(assignment), clip)
        # `fused` may be asked for where torch's fused kernels are wrong: the same step then takes another route. What
        # is left to torch's fused kernels, such as DTensors, is unscaled and skipped by them.
        self._detour = bool(group.get("fused")) and is_plain(self.params[0]) and not runtime.active.watched()
        self._fused = bool(group.get("fused")) and not self._detour and group.get("l1", 0) == 0
        self._fused = self._fused and self.spec.torch_fuses
        tensors, states = [*self.params, *self.grads], self._fetch_states()
        plain = all(map(is_plain, tensors))
        self._guard = Guard([*tensors, *states]) if plain and all(map(is_plain, states)) else None
        self._kinds = self._kinds_of(self.grads, states)
        self.foreach, self._in_turn = choose_foreach(assignment, group), assignment.parts[0].in_turn

    def _fetch_states(self) -> list[Any]:
        names = (*self.spec.state_names, *self.spec.products)
        return [state.get(name) for name in names for state in self.states]

    def _kinds_of(self, grads: Sequence[Tensor | None], states: list[Any]) -> list[object]:
        """Return what the slow check compares, for when there is no guard or it does not hold."""
        return [*map(_kind, self.params, grads), *map(_state_kind, states)]

    def gather(self) -> bool:
        grads, states = self.fetch_grads(), self._fetch_states()
        if self._guard is None or not self._guard.holds(*self.params, *grads, *states):
            if self._kinds_of(grads, states) != self._kinds:
                return False
        self.grads = grads
        return True

    def treat(self, inputs: StepInputs) -> StepInputs | None:
        if self.clip is None and (self._fused or inputs == StepInputs()):
            return inputs
        return treat_gradients(self, self.params, inputs)

    def run(self, groups: list[Group], inputs: StepInputs) -> None:
        if self.spec.layerwise and self._in_turn:
            everything = self.params, self.grads, self.states
            for params, grads, states in zip(*([[one] for one in column] for column in everything)):
                at_once(self._call(groups, inputs, LoopTensors(params, grads, states)), params)
                apply_l1(params, groups[self.group_of[0]])
        else:
            step = self._call(groups, inputs)
            if self.spec.layerwise:
                at_once(step, self.params)
            apply_l1(self.params, groups[self.group_of[0]])

    def layer_step(self, groups: list[Group], inputs: StepInputs) -> Generator[Tensor, Tensor, None]:
        yield from in_sums(self._call(groups, inputs), self.params)
        apply_l1(self.params, groups[self.group_of[0]])

    def _call(self, groups: list[Group], inputs: StepInputs, tensors: LoopTensors | None = None) -> Any:
        """Call torch's functional for all tensors, or for some; return the step, if it is layer-wise."""
        group = groups[self.group_of[0]]
        fused = None if self._detour else group.get("fused")
        flags = TorchFlags(self.foreach, fused, inputs.grad_scale, inputs.found_inf)
        return self.algorithm.run_torch(group, tensors or LoopTensors(self.params, self.grads, self.states), flags)


def without_missing_states(assignment: Assignment) -> Assignment:
    """Return the assignment; if states are still for torch to make, with no names, so that nothing fetches them."""
    if not assignment.new[0]:
        return assignment
    return replace(assignment, spec=replace(assignment.spec, state_names=()))


def choose_foreach(assignment: Assignment, group: Group) -> bool | None:
    """Return the `foreach` to pass to torch: the user's, or the faster one where torch does not choose it."""
    if assignment.parts[0].in_turn:
        return False
    choice: bool | None = group["foreach"]
    asked = choice is not None or group["differentiable"] or group.get("capturable")
    params, below = assignment.params, assignment.spec.foreach_below
    if asked or not below or not all_on_cpu(params):
        return choice
    tensors = [*params, *assignment.grads]
    names = assignment.spec.state_names
    states = [state[name] for state in assignment.states for name in names if isinstance(state.get(name), Tensor)]
    steps = {state["step"].dtype for state in assignment.states if isinstance(state.get("step"), Tensor)}
    dtypes = {tensor.dtype for tensor in (*tensors, *states)}
    if not (all(map(is_plain, tensors)) and all_have_real_storage(tensors) and steps <= {torch.float32}):
        return choice  # torch knows which implementation can take them
    if len(dtypes) > 1:
        return choice  # foreach takes one dtype only
    return len(params) >= FEW and sum(p.numel() for p in params) < below * len(params)


def treat_gradients(batch: Batch, params: list[Tensor], inputs: StepInputs) -> StepInputs | None:
    """Unscale and clip the gradients in place, as torch's functions do; return None if the step is to be left out.

    The host must know whether it is, as for torch's own unfused optimizers. On the CPU it need not wait for that.
    """
    if inputs.found_inf is not None and inputs.found_inf.item():
        return None
    if inputs.grad_scale is not None:
        for g in batch.grads:
            g.div_(inputs.grad_scale)
    if batch.clip is not None and batch.clip.in_kernel() is not None:  # else the plan has applied it
        if inputs.cut_units is not None:
            coefficients = list(map(inputs.cut_units.of, batch.params))
            for g, coefficient in zip(batch.grads, coefficients):
                if coefficient is not None:
                    g.mul_(coefficient)
            whole = [coefficient is None for coefficient in coefficients]
            batch.clip.apply(list(compress(params, whole)), list(compress(batch.grads, whole)))
        elif inputs.coefficient is None:
            batch.clip.apply(params, batch.grads)
        elif not inputs.coefficient.is_cpu or runtime.active.watched() or inputs.coefficient != 1:  # may be read there
            torch._foreach_mul_(list(batch.grads), inputs.coefficient)
    return StepInputs()


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


def _state_kind(state: object) -> object:
    return (state.shape, state.dtype, state.device, state.layout) if isinstance(state, Tensor) else None


def apply_l1(params: list[Tensor], group: Group) -> None:
    """Shrink updated parameters towards zero, by a group's L1 penalty."""
    l1 = group.get("l1", 0)
    if l1 == 0:
        return
    lr = group["lr"].reshape(()) if isinstance(group["lr"], Tensor) else float(group["lr"])
    shrink_(params, lr * l1)
