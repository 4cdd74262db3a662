"""The global norm of a step: measured once over all batches, whatever their routes. It stays on the device."""

from collections.abc import Sequence
from math import isinf
from typing import NamedTuple

import torch
from torch import Tensor

from .._engine import backend
from .._engine.clip import GradientBatch, InputsByDevice, StepInputs
from .._engine.layout import moved_to
from .._engine.ranks import ProcessGroups, Ranks, groups_of
from .._engine.shards import local_tensors
from .norms import by_kind, clip_coefficient, total_norm

NORM, COEFFICIENT, SKIPPED, SKIPPED_SO_FAR = range(4)  # places of a step's results


class Limits(NamedTuple):
    """What a policy that measures the norm is made of: see `ClipByGlobalNorm`."""

    max_norm: float
    norm_type: float
    skip_nonfinite: bool
    groups: ProcessGroups


class StepNorm:
    """Norm, coefficient and whether to skip the step, for the batches of one plan.

    Args:
        limits: the policy.
        batches: all batches of the plan; there may be none where other ranks have some.
        params: all parameters of the optimizer.
        results: by device, what a step leaves there: norm, coefficient, whether it was skipped, and how many were
            skipped so far; float64, shape (4,). The engine keeps it, since the count outlives a plan.
    """

    def __init__(
        self,
        limits: Limits,
        batches: Sequence[GradientBatch],
        params: Sequence[Tensor],
        results: dict[torch.device, Tensor],
    ) -> None:
        self.limits, self.results = limits, results
        self.ranks = Ranks(groups_of(params), limits.groups)
        self.devices = list(dict.fromkeys(batch.device for batch in batches))
        if self.ranks and not self.devices:
            self.devices = [local_tensors(params[:1])[0].device]
        self._by_kernel: list[GradientBatch] = []
        self._by_torch: list[GradientBatch] = []
        sums: dict[tuple[ProcessGroups, torch.device], list[object]] = {}
        for batch in batches:
            partial_sums = batch.partial_sums()
            if partial_sums is None:
                self._by_torch.append(batch)
            else:
                self._by_kernel.append(batch)
                sums.setdefault((batch.spread_over, batch.device), []).append(partial_sums)
        self._norms = {key: backend.measure.GlobalNorm(parts, key[1]) for key, parts in sums.items()}
        # Where one kernel sums up all that is here, and all is spread over the same ranks, it does the rest as well.
        adds_up = not self.ranks or (len(self.ranks.sets) == 1 and not isinf(limits.norm_type))
        self._in_pieces = bool(self._by_torch) or len(self._norms) != 1 or not adds_up
        for device in self.devices:
            if device not in results:
                with torch.inference_mode(False):  # lives longer than a step that may be taken in that mode
                    results[device] = torch.zeros(4, dtype=torch.float64, device=device)

    def measure(self, inputs: InputsByDevice, total_norm: Tensor | None = None) -> InputsByDevice:
        """Return the inputs with coefficient and `found_inf` filled in; only parameters on the CPU are waited for."""
        if not self.devices:
            return inputs
        for batch in self._by_kernel:
            batch.partial_sums()  # uploads addresses that have changed
        home, limits = self.devices[0], self.limits
        told = inputs.get(home, StepInputs())
        if total_norm is not None or self._in_pieces:
            total = self._combined() if total_norm is None else moved_to(total_norm, home)
            self._conclude(total if told.grad_scale is None else total / told.grad_scale, told)
        else:
            (norm,) = self._norms.values()
            norm.measure(
                limits.norm_type,
                limits.max_norm,
                limits.skip_nonfinite,
                told.grad_scale,
                told.found_inf,
                self.results[home],
                self.ranks.sum if self.ranks else None,
            )
        self.results[home] = self.results.pop(home)  # the last entry is of a device that took part in the last step
        skips = limits.skip_nonfinite or told.found_inf is not None
        return {
            device: StepInputs(
                one.grad_scale,
                self.results[device][SKIPPED] if skips else None,
                self.results[device][COEFFICIENT],
            )
            for device, one in inputs.items()
        }

    def _combined(self) -> Tensor:
        """Return the norm over several devices, routes or ranks before unscaling, with torch's own small operations."""
        home, norm_type = self.devices[0], self.limits.norm_type
        norms: dict[ProcessGroups, list[Tensor]] = {}
        for (groups, device), norm in self._norms.items():
            result = torch.zeros(4, dtype=torch.float64, device=device)
            norm.measure(norm_type, float("inf"), False, None, None, result)
            norms.setdefault(groups, []).append(result[NORM])
        for batch in self._by_torch:
            full = [g for g in batch.grads if g.numel()]  # torch has no infinity norm of an empty tensor
            total = total_norm(full, by_kind(full), norm_type, False, None).to(batch.device, torch.float64)
            norms.setdefault(batch.spread_over, []).append(total)
        here: dict[ProcessGroups, Tensor] = {
            groups: torch.linalg.vector_norm(torch.stack([one.to(home) for one in parts]), norm_type)
            for groups, parts in norms.items()
        }
        if self.ranks:
            return self.ranks.norm(here, norm_type, home)
        (total,) = here.values()
        batches = [*self._by_kernel, *self._by_torch]
        wide = all(g.dtype == torch.float64 for batch in batches for g in batch.grads)
        return total if wide else total.float()

    def _conclude(self, total: Tensor, told: StepInputs) -> None:
        """Leave on every device what follows from the norm."""
        coefficient = clip_coefficient(self.limits.max_norm, total)
        found_inf = told.found_inf
        skip = torch.zeros_like(total) if found_inf is None else (found_inf != 0).to(total.dtype)
        if self.limits.skip_nonfinite:
            skip = torch.maximum(skip, (~total.isfinite()).to(total.dtype))
        for device in self.devices:
            result = self.results[device]
            result[:SKIPPED_SO_FAR] = moved_to(torch.stack([total, coefficient, skip]), device, torch.float64)
            if self.limits.skip_nonfinite:
                result[SKIPPED_SO_FAR] += result[SKIPPED]
