"""A step, planned once: which tensors take which route. Used again until something changes."""

from collections import Counter
from collections.abc import Hashable
from dataclasses import replace
from operator import is_
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import backend
from .batch import Batch, Step
from ..clipping.functions import ClipByGlobalNorm
from .global_norm import StepNorm
from .layout import PLAIN, is_plain, moved_to, overlaps_itself
from .groups import Kept
from .parts import Part, parts_of
from .torch_batch import TorchBatch, TorchFusedBatch
from .kernel_batch import TritonBatch

if TYPE_CHECKING:
    from ..optimizers.base import FusedOptimizer


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
        parts = [part for i, kept in enumerate(self._groups) for part in parts_of(i, kept.params, self._repeated)]
        for part in parts:
            self._check(part)
        for part in parts:
            self._assign(part)
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

    def _check(self, part: Part) -> None:
        """Raises `RuntimeError` for a gradient that this optimizer cannot use, before anything is updated."""
        optimizer, group = self.optimizer, self.optimizer.param_groups[part.group]
        p, g = part.params[0], part.grads[0]  # as are the others, but for their shapes

        def refuse(p: Tensor, why: str) -> RuntimeError:
            j = next(j for j, other in enumerate(group["params"]) if other is p)
            return RuntimeError(f"{type(optimizer).__name__}: {optimizer.describe(part.group, j)} {why}")

        if not (p.is_floating_point() or p.is_complex()):
            raise refuse(p, f"is {p.dtype}; only floating-point and complex parameters can be optimized")
        for q, h in zip(part.params, part.grads):
            if q.shape != h.shape:
                why = f"has a gradient of shape {tuple(h.shape)}; call zero_grad() after resizing a parameter"
                raise refuse(q, why)
        if p.device != g.device:
            raise refuse(p, f"is on {p.device} but its gradient on {g.device}; move the model before backward()")
        if g.is_sparse:
            if not optimizer.accepts_sparse:
                raise refuse(p, "has a sparse gradient; this optimizer does not support sparse gradients")
            if group.get("fused"):
                raise refuse(p, "has a sparse gradient; `fused=True` does not support sparse gradients")
            if optimizer.sparse_conflict(group):
                raise refuse(p, f"has a sparse gradient; {optimizer.sparse_conflict(group)}")
        elif p.layout == torch.strided:
            for q in part.params:
                if not q.is_contiguous() and overlaps_itself(q):
                    raise refuse(q, "shares memory among its own elements, as after expand(); clone() it first")
        if group.get("fused") and not optimizer.can_fuse(p):
            raise refuse(p, optimizer.why_not_fused(p))
        if p.dtype != g.dtype and self._route(part) is not TritonBatch and optimizer.needs_one_dtype(group):
            raise refuse(p, f"is {p.dtype} but its gradient {g.dtype}; torch's implementation takes one dtype only")

    def _route(self, part: Part) -> type[Batch]:
        group, p, g = self.optimizer.param_groups[part.group], part.params[0], part.grads[0]
        if group["differentiable"] or group["foreach"] is not None or group.get("fused") is False:
            return TorchBatch
        if part.repeated:  # to be updated as often as they are listed, one after the other
            return TorchBatch
        if type(p) not in PLAIN or not is_plain(g):
            return TorchBatch
        if backend.serves(p) and backend.serves(g):
            return TritonBatch
        if p.dtype == g.dtype and self.optimizer.torch_would_fuse(group, p):
            return TorchFusedBatch
        return TorchBatch

    def _assign(self, part: Part) -> None:
        optimizer, group = self.optimizer, self.optimizer.param_groups[part.group]
        route = self._route(part)
        names = optimizer.state_names(group)
        part = replace(part, states=[optimizer.state_of(group, p) if names else {} for p in part.params])
        on_device = optimizer.counts_on_device(group, part.states)
        for (dtypes, counts_there), some in part.divided(list(zip(part.state_dtypes(names), on_device))):
            missing = None in dtypes
            if missing:
                self.reusable = False  # what is new now will not be in the next step
            if route is TritonBatch:
                self._assign_to_kernels(some, names, missing, counts_there)
            elif route is TorchFusedBatch and not {*dtypes} <= {part.params[0].dtype, None}:
                self._assign_to_torch(some, names, missing, TorchBatch)  # as after model.double() in mid-training
            else:
                self._assign_to_torch(some, names, missing, route)

    def _assign_to_torch(self, part: Part, names: tuple[str, ...], missing: bool, route: type[Batch]) -> None:
        key: Hashable = (route, part.group, missing, part.repeated)
        if key not in self.batches:
            self.batches[key] = route(self.optimizer, () if missing else names)
            self.batches[key].one_by_one = part.repeated
        self.batches[key].extend(part, missing)

    def _assign_to_kernels(self, part: Part, names: tuple[str, ...], missing: bool, on_device: bool) -> None:
        optimizer, group = self.optimizer, self.optimizer.param_groups[part.group]
        if missing:
            for p, g, state in zip(part.params, part.grads, part.states):
                for name in names:
                    if state.get(name) is None:
                        state[name] = optimizer.missing_state(group, p, g)
        rule, options = optimizer.rule(group)
        for dtypes, some in part.divided(part.state_dtypes(names)):
            p, g = some.params[0], some.grads[0]
            key = (rule, options, on_device, p.device, p.dtype, g.dtype, dtypes)
            if key not in self.batches:
                self.batches[key] = TritonBatch(optimizer, names, rule, options, on_device)
            self.batches[key].extend(some, missing)


def _on(device: torch.device, tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else moved_to(tensor.reshape(()), device)
