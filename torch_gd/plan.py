"""A step, planned once: which tensors take which route. Used again until something changes."""

from collections import Counter
from collections.abc import Hashable
from operator import is_
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import backend
from .batch import Batch, Step
from .clip_grad import ClipByGlobalNorm
from .global_norm import StepNorm
from .layout import PLAIN, is_plain, overlaps_itself
from .options import Kept
from .torch_path import TorchBatch, TorchFusedBatch
from .triton_path import TritonBatch

if TYPE_CHECKING:
    from .optimizer import FusedOptimizer


class Plan:
    """Every parameter that has a gradient, in batches; all checks are made before anything is updated."""

    def __init__(self, optimizer: "FusedOptimizer") -> None:
        self.optimizer = optimizer
        self.batches: dict[Hashable, Batch] = {}
        self.reusable = True
        self._norm: StepNorm | None = None
        self._groups = [Kept(optimizer, i) for i in range(len(optimizer.param_groups))]
        self._absent = [p for kept in self._groups for p in kept.params if p.grad is None]
        counts = Counter(id(p) for kept in self._groups for p in kept.params)
        self._repeated = {key for key, count in counts.items() if count > 1}
        for i, kept in enumerate(self._groups):
            for j, p in enumerate(kept.params):
                if p.grad is not None:
                    self._check(i, j, p, p.grad)
        for i, kept in enumerate(self._groups):
            for p in kept.params:
                if p.grad is not None:
                    self._assign(i, p, p.grad)
        for batch in self.batches.values():
            batch.freeze()
        self._states = list(optimizer.state.values())
        self._in_order = [(batch, batch.params[0].device) for batch in self.batches.values()]
        self._devices = list(dict.fromkeys(device for _, device in self._in_order))
        self._plain_steps = {device: Step(clip=optimizer.clip) for device in self._devices}
        self._streams = [(device, backend.stream_on(device)) for device in self._devices if backend.has_streams(device)]

    def ready(self) -> bool:
        """Fetches this step's gradients; False if the plan no longer describes what is there."""
        if self._gather():
            return True
        self.release()  # what some batches have fetched before another could not
        return False

    def _gather(self) -> bool:
        optimizer = self.optimizer
        if len(self._groups) != len(optimizer.param_groups) or len(self._states) != len(optimizer.state):
            return False
        return (
            all(map(Kept.same, self._groups, optimizer.param_groups))
            and all(map(is_, optimizer.state.values(), self._states))
            and all(backend.stream_on(device) == stream for device, stream in self._streams)
            and all(p.grad is None for p in self._absent)
            and all(batch.gather() for batch in self.batches.values())
        )

    def run(self, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        """Updates everything; `ready` must have been true."""
        clip = self.optimizer.clip
        steps = self._plain_steps
        if grad_scale is not None or found_inf is not None:
            steps = {device: Step(_on(device, grad_scale), _on(device, found_inf), clip) for device in self._devices}
        if isinstance(clip, ClipByGlobalNorm) and self._in_order:
            if self._norm is None:
                self._norm = StepNorm(list(self.batches.values()), self.optimizer.clip_results)
            steps = self._norm.measure(clip, steps)
        try:
            for batch, device in self._in_order:
                batch.run(steps[device])
        finally:
            self.release()

    def release(self) -> None:
        for batch in self.batches.values():
            batch.release()

    def _check(self, i: int, j: int, p: Tensor, g: Tensor) -> None:
        """Raises `RuntimeError` for a gradient that this optimizer cannot use, before anything is updated."""
        optimizer, group = self.optimizer, self.optimizer.param_groups[i]
        name = type(optimizer).__name__

        def refuse(why: str) -> RuntimeError:
            return RuntimeError(f"{name}: {optimizer.describe(i, j)} {why}")

        if not (p.is_floating_point() or p.is_complex()):
            raise refuse(f"is {p.dtype}; only floating-point and complex parameters can be optimized")
        if p.shape != g.shape:
            raise refuse(f"has a gradient of shape {tuple(g.shape)}; call zero_grad() after resizing a parameter")
        if p.device != g.device:
            raise refuse(f"is on {p.device} but its gradient on {g.device}; move the model before backward()")
        if g.is_sparse:
            if not optimizer.accepts_sparse:
                raise refuse("has a sparse gradient; this optimizer does not support sparse gradients")
            if group.get("fused"):
                raise refuse("has a sparse gradient; `fused=True` does not support sparse gradients")
            if optimizer.sparse_conflict(group):
                raise refuse(f"has a sparse gradient; {optimizer.sparse_conflict(group)}")
        elif p.layout == torch.strided and not p.is_contiguous() and overlaps_itself(p):
            raise refuse("shares memory among its own elements, as after expand(); clone() it first")
        if group.get("fused") and not optimizer.can_fuse(p):
            raise refuse(optimizer.why_not_fused(p))
        if p.dtype != g.dtype and self._route(group, p, g) is not TritonBatch and optimizer.needs_one_dtype(group):
            raise refuse(f"is {p.dtype} but its gradient {g.dtype}; torch's implementation takes one dtype only")

    def _route(self, group: dict[str, Any], p: Tensor, g: Tensor) -> type[Batch]:
        if group["differentiable"] or group["foreach"] is not None or group.get("fused") is False:
            return TorchBatch
        if id(p) in self._repeated:  # listed twice and so updated twice, one after the other
            return TorchBatch
        if type(p) not in PLAIN or not is_plain(g):
            return TorchBatch
        if backend.serves(p) and backend.serves(g):
            return TritonBatch
        if p.dtype == g.dtype and self.optimizer.torch_would_fuse(group, p):
            return TorchFusedBatch
        return TorchBatch

    def _assign(self, i: int, p: Tensor, g: Tensor) -> None:
        optimizer, group = self.optimizer, self.optimizer.param_groups[i]
        route = self._route(group, p, g)
        names = optimizer.state_names(group)
        state = optimizer.state_of(group, p) if names else {}
        missing = any(state.get(name) is None for name in names)
        if missing:
            self.reusable = False  # what is new now will not be in the next step
        if route is TorchFusedBatch and not all(
            state[name].dtype == p.dtype for name in names if state.get(name) is not None
        ):
            route = TorchBatch  # as after model.double() in mid-training, which torch's default takes
        if route is not TritonBatch:
            key: Hashable = (route, i, missing, id(p) in self._repeated)
            if key not in self.batches:
                self.batches[key] = route(optimizer, () if missing else names)
                self.batches[key].new = missing
                self.batches[key].one_by_one = id(p) in self._repeated
            self.batches[key].add(i, p, state)
            return
        for name in names:
            if state.get(name) is None:
                state[name] = optimizer.missing_state(group, p, g)
        rule, options = optimizer.rule(group)
        on_device = optimizer.counts_on_device(group, state)
        key = (rule, options, on_device, p.device, p.dtype, g.dtype, *(state[name].dtype for name in names))
        if key not in self.batches:
            self.batches[key] = TritonBatch(optimizer, names, rule, options, on_device)
        batch = self.batches[key]
        batch.add(i, p, state)
        batch.first[-1] = missing  # type: ignore[attr-defined]  # this key's batch is a TritonBatch


def _on(device: torch.device, tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.to(device, non_blocking=True)
