"""The global norm of a step: measured once over every batch, whatever route each takes. It stays on the device."""

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

from . import backend
from .batch import Batch, Step
from ..clipping.functions import ClipByGlobalNorm, clip_coefficient, get_total_norm
from .layout import moved_to
from .kernel_batch import TritonBatch


class StepNorm:
    """Norm, coefficient and whether to skip, for the batches of one plan.

    Args:
        batches: all of the plan.
        results: by device, what a step leaves there: norm, coefficient, whether it was skipped, how many were; float64,
            shape (4,). Kept by the optimizer, since the count outlives a plan.
    """

    def __init__(self, batches: Sequence[Batch], results: dict[torch.device, Tensor]) -> None:
        self.results = results
        self.devices = list(dict.fromkeys(batch.params[0].device for batch in batches))
        self._on_triton: dict[torch.device, list[TritonBatch]] = {}
        self._on_torch: list[Batch] = []
        for batch in batches:
            if isinstance(batch, TritonBatch):
                self._on_triton.setdefault(batch.params[0].device, []).append(batch)
            else:
                self._on_torch.append(batch)
        self._norms = {
            device: backend.measure.GlobalNorm([batch.partials() for batch in group], device)
            for device, group in self._on_triton.items()
        }
        for device in self.devices:
            if device not in results:
                results[device] = torch.zeros(4, dtype=torch.float64, device=device)

    def measure(self, clip: ClipByGlobalNorm, steps: dict[torch.device, Step]) -> dict[torch.device, Step]:
        """Returns the steps with coefficient and `found_inf` filled in; waits only for parameters on the CPU."""
        for group in self._on_triton.values():
            for batch in group:
                batch.partials()
        if len(self.devices) == 1 and not self._on_torch:
            (device,) = self.devices
            step = steps[device]
            self._norms[device].measure(
                clip.norm_type,
                clip.max_norm,
                clip.skip_nonfinite,
                step.grad_scale,
                step.found_inf,
                self.results[device],
            )
        else:
            self._combine(clip, steps)
        skips = clip.skip_nonfinite or next(iter(steps.values())).found_inf is not None
        return {
            device: Step(step.grad_scale, self.results[device][2] if skips else None, clip, self.results[device][1])
            for device, step in steps.items()
        }

    def _combine(self, clip: ClipByGlobalNorm, steps: dict[torch.device, Step]) -> None:
        """Norms from several devices or routes, put together by torch's own small operations."""
        home = self.devices[0]
        norms = []
        for device, norm in self._norms.items():
            result = torch.zeros(4, dtype=torch.float64, device=device)
            norm.measure(clip.norm_type, float("inf"), False, steps[device].grad_scale, None, result)
            norms.append(result[0])
        for batch in self._on_torch:
            device = batch.params[0].device
            full = [g for g in batch.grads if g.numel()]  # torch has no infinity norm of an empty tensor
            total = get_total_norm(full, clip.norm_type).to(device, torch.float64)
            scale = steps[device].grad_scale
            norms.append(total if scale is None else total / scale)
        batches = [*chain.from_iterable(self._on_triton.values()), *self._on_torch]
        wide = all(g.dtype == torch.float64 for batch in batches for g in batch.grads)
        total = torch.linalg.vector_norm(torch.stack([norm.to(home) for norm in norms]), clip.norm_type)
        total = total if wide else total.float()
        coefficient = clip_coefficient(clip.max_norm, total)
        found_inf = steps[home].found_inf
        skip = torch.zeros_like(total) if found_inf is None else (found_inf != 0).to(total.dtype)
        if clip.skip_nonfinite:
            skip = torch.maximum(skip, (~total.isfinite()).to(total.dtype))
        for device in self.devices:
            result = self.results[device]
            result[:3] = moved_to(torch.stack([total, coefficient, skip]), device, torch.float64)
            if clip.skip_nonfinite:
                result[3] += result[2]
