"""Torch's own functional implementations, for whatever our kernels do not serve."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .batch import PLAIN, Batch, DenseBatch, Step

if TYPE_CHECKING:
    from .optimizer import FusedOptimizer


class TorchFusedBatch(DenseBatch):
    """One group's tensors, for torch's fused kernels, which look at no stride."""

    def _trace(self, column: list[Tensor]) -> list[Any]:
        """Tensors are handed over as they are, so that their identity will do, and a parameter's need not be asked."""
        return [] if column is self.params else list(map(id, column))

    def update(self, step: Step) -> None:
        group = self.optimizer.param_groups[self.group_of[0]]
        # torch's fused SGD would leave uninitialised memory as the momentum of a first step that is skipped.
        if step.clip is not None or (self.new and step.found_inf is not None):
            ready = _clipped(self, self.dense, step)
            if ready is None:
                return
            step = ready
        flags = {"foreach": False, "fused": True, "grad_scale": step.grad_scale, "found_inf": step.found_inf}
        self.optimizer.functional(group, self.dense, self.grads, self.states, flags)
        _shrink(self.dense, group)


class TorchBatch(Batch):
    """One group's tensors, for torch's foreach or for-loop implementation: as the user says, or as torch chooses."""

    def __init__(self, optimizer: "FusedOptimizer", names: tuple[str, ...]) -> None:
        super().__init__(optimizer, names)
        self._kinds: list[object] = []

    def gather(self) -> bool:
        grads = [p.grad for p in self.params]
        kinds: list[object] = [
            None if g is None else (type(g), g.dtype, g.layout, p.device, p.shape == g.shape)
            for p, g in zip(self.params, grads)
        ]
        if None in kinds or (self._kinds and kinds != self._kinds):
            return False
        self._kinds = kinds
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
            "foreach": False if self.one_by_one else group["foreach"],
            "fused": None if detour else fused,
            "grad_scale": step.grad_scale,
            "found_inf": step.found_inf,
        }
        self.optimizer.functional(group, self.params, self.grads, self.states, flags)
        _shrink(self.params, group)


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
    with torch.no_grad():
        for p in params:
            p.copy_(p.sign() * (p.abs() - group["lr"] * group["l1"]).clamp_(min=0))
