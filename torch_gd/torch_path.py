"""Torch's own functional implementations, for whatever our kernels do not serve."""

from typing import TYPE_CHECKING

from torch import Tensor

from .batch import PLAIN, Batch, DenseBatch

if TYPE_CHECKING:
    from .optimizer import FusedOptimizer


class TorchFusedBatch(DenseBatch):
    """One group's tensors, for torch's fused kernels, which look at no stride."""

    def update(self, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        group = self.optimizer.param_groups[self.group_of[0]]
        flags = {"foreach": False, "fused": True, "grad_scale": grad_scale, "found_inf": found_inf}
        self.optimizer.functional(group, self.dense, self.grads, self.states, flags)


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

    def run(self, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        group = self.optimizer.param_groups[self.group_of[0]]
        fused, grads = group.get("fused"), self.grads
        if fused and type(self.params[0]) in PLAIN:
            # Asked for, but wrong there (`torch_would_fuse`): the same step by another route. This is on the CPU, where
            # reading `found_inf` waits for nothing.
            if found_inf is not None and found_inf.item():
                return
            fused, grads = None, grads if grad_scale is None else [g / grad_scale for g in grads]
            grad_scale = found_inf = None
        flags = {"foreach": group["foreach"], "fused": fused, "grad_scale": grad_scale, "found_inf": found_inf}
        self.optimizer.functional(group, self.params, grads, self.states, flags)
