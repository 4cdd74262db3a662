"""Fallback for encoded tensors that our kernels cannot update: decode to float32, update with torch, encode."""

from collections.abc import Generator, Sequence
from typing import Any

import torch
from torch import Tensor

from .assignment import Assignment
from .clip import Clip, StepInputs
from .encoding import decode, encode, noise, shifted
from .layers import alone, in_sums
from .spec import Algorithm, Group, LoopTensors, State, TorchFlags
from .storage import Noise
from .torch_batch import TorchBatch, apply_l1


class DecodedBatch(TorchBatch):
    """Tensors of one group that are stored by codecs, updated in float32 copies by torch's implementations.

    It takes time and, during a step, the memory of these copies. The bits are rounded as in the kernels.

    Args:
        noise: what their noise depends on.
    """

    def __init__(
        self, algorithm: Algorithm, assignment: Assignment, clip: Clip | None, group: Group, noise: Noise
    ) -> None:
        super().__init__(algorithm, assignment, clip, group)
        self._noise = noise
        self._fused = False
        made = algorithm.init_state(group, torch.empty_like(self.params[0], device="meta"))
        self._counts = "step" in made or algorithm.spec(group).counts_steps
        self._lazy = [name for name in self.spec.own_names if name not in made]

    def gather(self) -> bool:
        if not super().gather():
            return False
        if self.shards is None or not self.shards.moves:
            self.placed()
        return True

    def placed(self) -> None:
        self.grads = [g.float() for g in self.grads]  # else they would be measured and clipped in half precision

    def run(self, groups: list[Group], inputs: StepInputs) -> None:
        everything = list(range(len(self.params)))
        for some in [[i] for i in everything] if self._in_turn else [everything]:
            if self.spec.layerwise:
                alone(self._step(groups, some))
            else:
                tensors = self._decoded(some)
                self._update(groups, tensors)
                self._encode(groups, tensors, some)

    def layer_step(self, groups: list[Group], inputs: StepInputs) -> Generator[Tensor, Tensor, None]:
        yield from self._step(groups, list(range(len(self.params))))

    def _step(self, groups: list[Group], some: list[int]) -> Generator[Tensor, Tensor, None]:
        tensors = self._decoded(some)
        yield from in_sums(self._update(groups, tensors), tensors.params)
        self._encode(groups, tensors, some)

    def _update(self, groups: list[Group], tensors: LoopTensors) -> Any:
        flags = TorchFlags(self.foreach)  # the gradients have been unscaled
        return self.algorithm.run_torch(groups[self.group_of[0]], tensors, flags)

    def _decoded(self, some: Sequence[int]) -> LoopTensors:
        """Return float32 copies, and the step counters themselves."""
        weight, *columns = self.spec.columns
        params = [decode(weight, self._stored(i, 0)) for i in some]
        states: list[State] = []
        for i in some:
            state = self.states[i]
            found: State = {name: state[name] for name in self.spec.counters if name != "step" or self._counts}
            first = bool(self._lazy) and float(state["step"]) == 0
            for place, column in enumerate(columns, 1):
                if not (first and column.name in self._lazy):  # which torch makes of the first gradient
                    found[column.name] = decode(column, self._stored(i, place))
            states.append(found)
        return LoopTensors(params, [self.grads[i] for i in some], states)

    def _encode(self, groups: list[Group], tensors: LoopTensors, some: Sequence[int]) -> None:
        apply_l1(tensors.params, groups[self.group_of[0]])
        for i, p, values in zip(some, tensors.params, tensors.states):
            step = self.states[i]["step"]
            if not self._counts:
                step.add_(1)
            bits = None
            if any(column.noisy for column in self.spec.columns):
                bits = noise(p, self._noise.keys[i], self._noise.firsts[i], int(step))
            for place, column in enumerate(self.spec.columns):
                x = p if place == 0 else values[column.name]
                # The kernels number parameter 0, gradient 1, states from 2; here is no gradient, hence + 1.
                mine = bits if bits is None or place == 0 else shifted(bits, place + 1)
                encode(column, x, self._stored(i, place), mine)

    def _stored(self, i: int, place: int) -> list[Tensor]:
        """Return what is stored of a column of a parameter."""
        column = self.spec.columns[place]
        stored = [self.states[i][key] for key in column.stored]
        return [self.params[i], *stored] if place == 0 else stored
