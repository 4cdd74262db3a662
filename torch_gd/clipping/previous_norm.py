"""Clipping by the global norm where gradients are released before the last of them is there."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .._engine.clip import GradientBatch, InputsByDevice, KernelClip, Measure
from .._engine.layout import moved_to
from .norms import clip_coefficient
from .policies import ClipByGlobalNorm
from .step_norm import NORM, Limits, StepNorm


class ClipByPreviousNorm:
    """Clip by the norm of the step before, or by that of what this step has seen so far, whichever is larger.

    In the first step there is no other than the second. All is computed on the device. This is what the engine takes
    for a policy (`torch_gd._engine.clip.Clip`), but none that users choose or checkpoints name.

    Args:
        policy: the policy for the norm of all gradients, whose limits are taken.
        device: the device of all parameters.
    """

    skip_nonfinite = False
    groups = ()

    def __init__(self, policy: ClipByGlobalNorm, device: torch.device) -> None:
        self.policy = policy
        with torch.inference_mode(False):
            self._previous, self._so_far, self._coefficient = torch.zeros(
                3, dtype=torch.float64, device=device
            ).unbind()

    def state_dict(self) -> dict[str, Any] | None:
        """Return None: the policy that is saved is the user's."""
        return None

    def apply(self, params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        """Do nothing: gradients are multiplied by the coefficient on every route."""

    def in_kernel(self) -> KernelClip:
        """Return that the kernels do nothing but multiply by the coefficient that is measured first."""
        return KernelClip()

    def measure_first(
        self, batches: Sequence[GradientBatch], params: Sequence[Tensor], results: dict[torch.device, Tensor]
    ) -> Measure | None:
        """Return a function that adds the gradients of some batches to the norm so far, and derives the coefficient."""
        if not batches:
            return None
        found: dict[torch.device, Tensor] = {}
        limits = Limits(float("inf"), self.policy.norm_type, skip_nonfinite=False, groups=())
        return partial(self._measure, StepNorm(limits, batches, params, found), found)

    def _measure(
        self,
        norm: StepNorm,
        found: dict[torch.device, Tensor],
        inputs: InputsByDevice,
        total_norm: Tensor | None = None,
    ) -> InputsByDevice:
        norm.measure(inputs)
        (result,) = found.values()
        both = torch.stack([self._so_far, result[NORM]])
        self._so_far.copy_(torch.linalg.vector_norm(both, self.policy.norm_type))
        largest = torch.maximum(self._previous, self._so_far)
        self._coefficient.copy_(clip_coefficient(self.policy.max_norm, largest))
        return {device: one._replace(coefficient=moved_to(self._coefficient, device)) for device, one in inputs.items()}

    def go_on_from(self, before: "ClipByPreviousNorm") -> None:
        """Take over what has been measured under another limit, if it is a norm of the same order."""
        if before.policy.norm_type == self.policy.norm_type:
            self._previous, self._so_far = before._previous, before._so_far

    def end_step(self) -> Tensor:
        """Begin the next step; return the results of this one as `StepNorm` leaves them: float64, shape (4,)."""
        self._previous.copy_(self._so_far)
        self._so_far.zero_()
        nothing = torch.zeros_like(self._previous)
        return torch.stack([self._previous, self._coefficient, nothing, nothing])
