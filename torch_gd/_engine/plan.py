"""A step, planned once: batches of tensors, used again until something changes."""

from collections.abc import MutableMapping
from functools import partial
from operator import is_, methodcaller

import torch
from torch import Tensor

from ..triton_kernels import runtime
from .assignment import Assignment, assign, route_parts
from .batch import Batch
from .clip import Clip, InputsByDevice, KernelClip, Measure, StepInputs
from .decoded_batch import DecodedBatch
from .groups import GroupSnapshot
from .kernel_batch import KernelBatch
from .layers import SplitTensors
from .layout import moved_to
from .parts import ids_in_turn, parts_of
from .routes import Kind, place_of
from .shards import place
from .spec import Algorithm, Group, State
from .states import States
from .storage import noise_of
from .torch_batch import TorchBatch, TorchFusedBatch
from .writable import Use, check

_gather_batch = methodcaller("gather")


class Plan:
    """Every parameter that has a gradient, in batches. All checks are made before anything is updated.

    Args:
        algorithm: the optimizer's.
        groups: its parameter groups.
        states: its states, which are made where they are missing.
        clip: its clip policy.
        scaled: whether a GradScaler has ever handed over what it found.

    Raises:
        RuntimeError: a gradient or a state that cannot be used, named.
        TypeError, ValueError: an option of a group that cannot be used.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        groups: list[Group],
        states: MutableMapping[Tensor, State],
        clip: Clip | None,
        scaled: bool,
    ) -> None:
        self._clip, self._name = clip, algorithm.name
        self._snapshots = [GroupSnapshot(algorithm, i, group) for i, group in enumerate(groups)]
        self._without_grad = [p for snapshot in self._snapshots for p in snapshot.params if p.grad is None]
        in_turn = ids_in_turn(groups)
        parts = [
            part
            for i, snapshot in enumerate(self._snapshots)
            for part in parts_of(i, snapshot.params, [p.grad for p in snapshot.params], in_turn)
        ]
        specs = [snapshot.spec for snapshot in self._snapshots]
        there = States(algorithm, states)
        routed = route_parts(groups, specs, parts, there, clip)
        assignments = assign(groups, specs, routed, there, clip, scaled)
        self.batches = [make_batch(algorithm, one, groups, clip) for one in assignments]
        self._sharded = [batch.shards for batch in self.batches if batch.shards is not None]
        # States that are missing now will not be missing in the next step.
        self.reusable = not any(new for one in assignments for new in one.new)
        self._states = list(states.values())
        self._in_order = [(batch, batch.device) for batch in self.batches]
        self._devices = list(dict.fromkeys(device for _, device in self._in_order))
        self._no_inputs = dict.fromkeys(self._devices, StepInputs())
        machine = runtime.active
        self._streams = [(device, machine.stream_on(device)) for device in self._devices if machine.has_streams(device)]
        self._measure: list[Measure | None] = []  # made at the first step
        layerwise = any(spec.layerwise for spec in specs)
        self._split = SplitTensors([p for one in self._snapshots for p in one.params] if layerwise else ())

    def ready(self, groups: list[Group], states: MutableMapping[Tensor, State], clip: Clip | None) -> bool:
        """Fetch this step's gradients; return False if the plan no longer describes what is there."""
        if self._gather(groups, states, clip):
            return True
        self.release()  # what some batches have fetched before another one could not
        return False

    def _gather(self, groups: list[Group], states: MutableMapping[Tensor, State], clip: Clip | None) -> bool:
        if len(self._snapshots) != len(groups) or len(self._states) != len(states) or clip is not self._clip:
            return False
        stream_on = runtime.active.stream_on
        return (
            all(map(GroupSnapshot.still_describes, self._snapshots, groups))
            and all(map(is_, states.values(), self._states))
            and all(stream_on(device) == stream for device, stream in self._streams)
            and all(p.grad is None for p in self._without_grad)
            and all(map(_gather_batch, self.batches))
        )

    def run(
        self,
        groups: list[Group],
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
        results: dict[torch.device, Tensor],
        total_norm: Tensor | None = None,
    ) -> None:
        """Update everything; `ready` must have returned True.

        Args:
            groups: the parameter groups, whose hyperparameters are read now.
            grad_scale: what `torch.amp.GradScaler` wants gradients divided by.
            found_inf: where it holds a value other than zero, the step is left out.
            results: by device, where a policy that measures leaves what it has found.
            total_norm: the norm of all gradients, if it has been measured already.
        """
        inputs: InputsByDevice = self._no_inputs
        if grad_scale is not None or found_inf is not None:
            inputs = {device: StepInputs(_on(device, grad_scale), _on(device, found_inf)) for device in self._devices}
        try:
            if self._clip is not None or grad_scale is not None:
                self._check_gradients(groups)
            if self._clip is not None or self._sharded:
                inputs = self._prepare(inputs, results, total_norm)
            # All gradients are treated before anything is updated, since treating them may fail.
            treated = [batch.treat(inputs[device]) for batch, device in self._in_order]
            if self._split:
                self._split.run(self.batches, groups, treated)
            for batch, left in zip(self.batches, treated):
                if left is not None:
                    if not self._split:
                        batch.run(groups, left)
                    if batch.shards is not None:
                        batch.shards.mark_changed()
        finally:
            self.release()

    def _check_gradients(self, groups: list[Group]) -> None:
        """Raise `RuntimeError` for a gradient that cannot be changed in place, before any other has been."""
        in_kernel = None if self._clip is None else self._clip.in_kernel()
        own_pass = self._clip is not None and in_kernel is None
        use = Use.SCALED if in_kernel is None or in_kernel == KernelClip() else Use.BY_ELEMENT
        for batch in self.batches:
            if own_pass or batch.writes_gradients:
                grads: list[Tensor] = [p.grad for p in batch.holders] if own_pass else batch.grads  # type: ignore[misc]  # no None
                check(grads, use, partial(self._name_of_gradient, groups, batch))

    def _name_of_gradient(self, groups: list[Group], batch: Batch, i: int) -> str:
        group = batch.group_of[i]
        return f"{self._name}: the gradient of {place_of(groups[group], group, batch.holders[i])}"

    def _prepare(
        self, inputs: InputsByDevice, results: dict[torch.device, Tensor], total_norm: Tensor | None
    ) -> InputsByDevice:
        """Do what precedes all batches: a policy's own pass, gradients placed as their parameters, measuring."""
        clip = self._clip
        own_pass = clip is not None and clip.in_kernel() is None
        if clip is not None and own_pass and self.batches:
            inputs = self._apply(clip, inputs)
        if self._sharded:  # after every check that may fail on this rank alone
            self._place_gradients()
        return inputs if clip is None or own_pass else self._measure_all(clip, inputs, results, total_norm)

    def _place_gradients(self) -> None:
        """Redistribute what is placed otherwise than its parameter, in one order on all ranks."""
        moves = [move for shards in self._sharded for move in shards.moves]
        if moves:
            order = {id(p): i for i, p in enumerate(p for one in self._snapshots for p in one.params)}
            place(sorted(moves, key=lambda move: order[id(move.owner)]))
            for batch in self.batches:
                if batch.shards is not None and batch.shards.moves:
                    batch.placed()

    def _measure_all(
        self, clip: Clip, inputs: InputsByDevice, results: dict[torch.device, Tensor], total_norm: Tensor | None
    ) -> InputsByDevice:
        """Have a policy measure the gradients of all batches."""
        if not self._measure:
            params = [p for snapshot in self._snapshots for p in snapshot.params]
            self._measure = [clip.measure_first(self.batches, params, results)]
        (measure,) = self._measure
        return inputs if measure is None else measure(inputs, total_norm)

    def _apply(self, clip: Clip, inputs: InputsByDevice) -> InputsByDevice:
        """Have a policy change the parameters' own gradients, of which batches may have fetched copies."""
        if all(one.found_inf is not None and one.found_inf.is_cpu and one.found_inf.item() for one in inputs.values()):
            return inputs  # the step is left out, and its gradients are not finite
        params = [p for batch in self.batches for p in batch.holders]
        grads: list[Tensor] = [p.grad for p in params]  # type: ignore[misc]  # a plan's parameters have gradients
        for p, g in zip(params, grads):
            grad_scale = inputs[p.device].grad_scale
            if grad_scale is not None:
                g.div_(grad_scale)
        clip.apply(params, grads)
        if not all(batch.gather() for batch in self.batches):
            raise RuntimeError(f"{type(clip).__name__}.apply() must change gradients in place, not replace them")
        return {device: one._replace(grad_scale=None) for device, one in inputs.items()}

    def release(self) -> None:
        """Let go of gradients."""
        for batch in self.batches:
            batch.release()


def make_batch(
    algorithm: Algorithm,
    assignment: Assignment,
    groups: list[Group],
    clip: Clip | None,
) -> Batch:
    """Return the batch of an assignment."""
    noise = None
    if assignment.spec.columns:
        noise = noise_of(groups, assignment.owners or assignment.params, assignment.group_of)
    if assignment.kind is Kind.KERNELS:
        return KernelBatch(algorithm, assignment, clip, noise)
    group = groups[assignment.parts[0].group]
    if noise is not None:
        return DecodedBatch(algorithm, assignment, clip, group, noise)
    if assignment.kind is Kind.TORCH_FUSED:
        return TorchFusedBatch(algorithm, assignment, clip, group)
    return TorchBatch(algorithm, assignment, clip, group)


def _on(device: torch.device, tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else moved_to(tensor.reshape(()), device)
