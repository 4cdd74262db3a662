"""Torch's own functional implementations, for whatever our kernels do not serve."""

from itertools import chain
from typing import Any

import torch
from torch import Tensor

from .batch import Batch, DenseBatch, FusedTensors, Step
from .counters import JoinedCounters
from .guard import Guard
from .layout import PLAIN, are_literal, is_literal, is_plain, on_cpu


class TorchFusedBatch(DenseBatch):
    """One group's tensors, for torch's fused kernels, which look at no stride."""

    def freeze(self) -> None:
        super().freeze()
        self._fetched: list[list[Tensor]] = []  # the states, by name
        self._numel = sum(map(Tensor.numel, self.params))
        self._counters: JoinedCounters | None = None
        group = self.optimizer.param_groups[self.group_of[0]]
        numbers = not any(isinstance(value, Tensor) for value in self.optimizer.hyperparameters(group))
        self._direct = self.optimizer.has_torch_fused and not self.new[0] and numbers and on_cpu(self.params)
        if self._direct and "step" in self.states[0]:
            self._direct = on_cpu([state["step"] for state in self.states])
            self._counters = JoinedCounters(self.states, self.optimizer.state.values()) if self._direct else None

    def guarded(self, columns: list[list[Tensor]]) -> list[Tensor]:
        return list(chain.from_iterable(columns))

    def unmoved(self, columns: list[list[Tensor]]) -> bool:
        self._fetched = columns
        return self._counters is None or self._counters.gather()

    def release(self) -> None:
        super().release()
        self._fetched = []

    def update(self, step: Step) -> bool:
        group, seen = self.optimizer.param_groups[self.group_of[0]], False
        # torch's fused SGD would leave uninitialised memory as the momentum of a first step that is skipped.
        if step.clip is not None or (self.new[0] and step.found_inf is not None):
            ready = _clipped(self, self.dense, step)
            if ready is None:
                return True
            step = ready
        if self._direct and step.grad_scale is None and step.found_inf is None:
            steps = []
            if self._counters is not None:
                self._counters.advance()
                steps = self._counters.views
            tensors = FusedTensors(self.dense, self.grads, self._fetched, steps, self._numel)
            seen = self.optimizer.fused_update(group, tensors)
        else:
            flags = {"foreach": False, "fused": True, "grad_scale": step.grad_scale, "found_inf": step.found_inf}
            self.optimizer.functional(_to_the_letter(group), self.dense, self.grads, self.states, flags)
        _shrink(self.dense, group)
        return seen


class TorchBatch(Batch):
    """One group's tensors, for torch's foreach or for-loop implementation: as the user says, or as torch chooses."""

    def freeze(self) -> None:
        tensors = [*self.params, *self.grads]
        plain = all(map(is_plain, tensors))
        self._guard = Guard(tensors) if plain else None
        self._kinds = list(map(_kind, self.params, self.grads))
        group = self.optimizer.param_groups[self.group_of[0]]
        steps = {state["step"].dtype for state in self.states if isinstance(state.get("step"), Tensor)}
        if self.one_by_one:
            self._foreach: bool | None = False
        elif plain and are_literal(tensors) and steps <= {torch.float32}:
            self._foreach = self.optimizer.foreach_choice(group, self.params)
        else:  # torch knows best
            self._foreach = group["foreach"]

    def gather(self) -> bool:
        if not all(state.get(name) is not None for state in self.states for name in self.names):
            return False
        grads = [p.grad for p in self.params]
        if self._guard is None or not self._guard.holds(*self.params, *grads):
            if list(map(_kind, self.params, grads)) != self._kinds:
                return False
        self.grads = grads  # type: ignore[assignment]  # none is None, as was just seen
        return True

    def run(self, step: Step) -> None:
        group = self.optimizer.param_groups[self.group_of[0]]
        fused = group.get("fused")
        # `fused` may be asked for where it is wrong (`torch_would_fuse`): the same step by another route.
        detour = fused and type(self.params[0]) in PLAIN
        if detour or step.clip is not None:
            ready = _clipped(self, self.params, step)
            if ready is None:
                return
            step = ready
        flags = {
            "foreach": self._foreach,
            "fused": None if detour else fused,
            "grad_scale": step.grad_scale,
            "found_inf": step.found_inf,
        }
        self.optimizer.functional(group, self.params, self.grads, self.states, flags)
        _shrink(self.params, group)


def _kind(p: Tensor, g: Tensor | None) -> object:
    return None if g is None else (type(g), p.dtype, g.dtype, g.layout, p.device, p.shape == g.shape, is_literal(g))


def _to_the_letter(group: dict[str, Any]) -> dict[str, Any]:
    """Torch's fused kernels want bools and floats, where its default takes whatever serves as one."""
    group = dict(group)
    for name in ("nesterov", "amsgrad", "maximize"):
        if name in group:
            group[name] = bool(group[name])
    if not isinstance(group["lr"], Tensor):
        group["lr"] = float(group["lr"])
    return group


def _clipped(batch: Batch, params: list[Tensor], step: Step) -> Step | None:
    """Unscales and clips the gradients themselves, as torch's functions do; None if the step is to be left out.

    Whether it is, the host must know, as it must for torch's own unfused optimizers; on the CPU it need not wait.
    """
    if step.found_inf is not None and step.found_inf.item():
        return None
    if step.grad_scale is not None:
        for g in batch.grads:
            g.div_(step.grad_scale)
    if step.clip is not None:
        step.clip.in_place(params, batch.grads, step.coefficient)
    return Step()


def _shrink(params: list[Tensor], group: dict[str, Any]) -> None:
    """L1 as a proximal step (soft threshold): exact zeros."""
    if group.get("l1", 0) == 0:
        return
    lr = group["lr"].reshape(()) if isinstance(group["lr"], Tensor) else float(group["lr"])  # 0-d may be on any device
    with torch.no_grad():
        for p in params:
            p.copy_(p.sign() * (p.abs() - lr * group["l1"]).clamp_(min=0))
