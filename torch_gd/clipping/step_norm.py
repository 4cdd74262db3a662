"""The global norm of a step: measured once over all batches, whatever their routes. It stays on the device."""

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

from .._engine import backend
from .._engine.clip import GradientBatch, InputsByDevice, StepInputs
from .._engine.layout import moved_to
from .norms import clip_coefficient, get_total_norm

NORM, COEFFICIENT, SKIPPED, SKIPPED_SO_FAR = range(4)  # places of a step's results


class StepNorm:
    """Norm, coefficient and whether to skip the step, for the batches of one plan.

    Args:
        max_norm: the largest norm that is let through.
        norm_type: order of the norm.
        skip_nonfinite: whether a norm that is not finite leaves the step out.
        batches: all batches of the plan.
        results: by device, what a step leaves there: norm, coefficient, whether it was skipped, and how many were
            skipped so far; float64, shape (4,). The engine keeps it, since the count outlives a plan.
    """

    def __init__(
        self,
        max_norm: float,
        norm_type: float,
        skip_nonfinite: bool,
        batches: Sequence[GradientBatch],
        results: dict[torch.device, Tensor],
    ) -> None:
        self.max_norm, self.norm_type, self.skip_nonfinite = max_norm, norm_type, skip_nonfinite
        self.results = results
        self.devices = list(dict.fromkeys(batch.device for batch in batches))
        self._by_kernel: dict[torch.device, list[GradientBatch]] = {}
        self._by_torch: list[GradientBatch] = []
        sums: dict[torch.device, list[object]] = {}
        for batch in batches:
            partial_sums = batch.partial_sums()
            if partial_sums is None:
                self._by_torch.append(batch)
            else:
                self._by_kernel.setdefault(batch.device, []).append(batch)
                sums.setdefault(batch.device, []).append(partial_sums)
        self._norms = {device: backend.measure.GlobalNorm(parts, device) for device, parts in sums.items()}
        for device in self.devices:
            if device not in results:
                with torch.inference_mode(False):  # lives longer than a step that may be taken in that mode
                    results[device] = torch.zeros(4, dtype=torch.float64, device=device)

    def measure(self, inputs: InputsByDevice) -> InputsByDevice:
        """Return the inputs with coefficient and `found_inf` filled in; only parameters on the CPU are waited for."""
        for batch in chain.from_iterable(self._by_kernel.values()):
            batch.partial_sums()  # uploads addresses that have changed
        if len(self.devices) == 1 and not self._by_torch:
            (device,) = self.devices
            self._norms[device].measure(
                self.norm_type,
                self.max_norm,
                self.skip_nonfinite,
                inputs[device].grad_scale,
                inputs[device].found_inf,
                self.results[device],
            )
        else:
            self._combine(inputs)
        home = self.devices[0]
        self.results[home] = self.results.pop(home)  # the last entry is of a device that took part in the last step
        skips = self.skip_nonfinite or next(iter(inputs.values())).found_inf is not None
        return {
            device: StepInputs(
                one.grad_scale,
                self.results[device][SKIPPED] if skips else None,
                self.results[device][COEFFICIENT],
            )
            for device, one in inputs.items()
        }

    def _combine(self, inputs: InputsByDevice) -> None:
        """Put norms from several devices or routes together, with torch's own small operations."""
        home = self.devices[0]
        norms = []
        for device, norm in self._norms.items():
            result = torch.zeros(4, dtype=torch.float64, device=device)
            norm.measure(self.norm_type, float("inf"), False, inputs[device].grad_scale, None, result)
            norms.append(result[NORM])
        for batch in self._by_torch:
            full = [g for g in batch.grads if g.numel()]  # torch has no infinity norm of an empty tensor
            total = get_total_norm(full, self.norm_type).to(batch.device, torch.float64)
            scale = inputs[batch.device].grad_scale
            norms.append(total if scale is None else total / scale)
        batches = [*chain.from_iterable(self._by_kernel.values()), *self._by_torch]
        wide = all(g.dtype == torch.float64 for batch in batches for g in batch.grads)
        total = torch.linalg.vector_norm(torch.stack([norm.to(home) for norm in norms]), self.norm_type)
        total = total if wide else total.float()
        coefficient = clip_coefficient(self.max_norm, total)
        found_inf = inputs[home].found_inf
        skip = torch.zeros_like(total) if found_inf is None else (found_inf != 0).to(total.dtype)
        if self.skip_nonfinite:
            skip = torch.maximum(skip, (~total.isfinite()).to(total.dtype))
        for device in self.devices:
            result = self.results[device]
            result[:SKIPPED_SO_FAR] = moved_to(torch.stack([total, coefficient, skip]), device, torch.float64)
            if self.skip_nonfinite:
                result[SKIPPED_SO_FAR] += result[SKIPPED]
