"""Which parameters one call updates together: parts of all groups, gathered by route, dtypes and device."""

from collections.abc import Hashable, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from typing import Any

import torch
from torch import Tensor

from .clip import Clip
from .layout import DEVICE_OF, SHAPE_OF
from .parts import Part
from .routes import Kind, Route, check_part, choose_route, name_of
from .spec import Algorithm, Group, State, UpdateSpec, new_step_counter


@dataclass
class Assignment:
    """Parameters for one batch, in parts, with what is known of each part.

    Args:
        kind: the implementation.
        spec: the spec of their groups.
        counts_on_device: whether the GPU alone may read their step counters.
        parts: the parameters, with gradients and states.
        new: whether each part's states were missing, and are new or left for torch to make.
        reasons: why each part takes this route.
    """

    kind: Kind
    spec: UpdateSpec
    counts_on_device: bool
    parts: list[Part] = field(default_factory=list)
    new: list[bool] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def add(self, part: Part, new: bool, reason: str) -> None:
        """Take one more part."""
        self.parts.append(part)
        self.new.append(new)
        self.reasons.append(reason)

    @property
    def params(self) -> list[Tensor]:
        """Return the parameters of all parts."""
        return list(chain.from_iterable(part.params for part in self.parts))

    @property
    def grads(self) -> list[Tensor]:
        """Return the gradients of all parts."""
        return list(chain.from_iterable(part.grads for part in self.parts))

    @property
    def states(self) -> list[State]:
        """Return the states of all parts."""
        return list(chain.from_iterable(part.states for part in self.parts))

    @property
    def group_of(self) -> list[int]:
        """Return the index of each parameter's group."""
        return list(chain.from_iterable(repeat(part.group, len(part.params)) for part in self.parts))

    @property
    def is_new(self) -> list[bool]:
        """Return whether each parameter's states are new."""
        return list(chain.from_iterable(repeat(new, len(part.params)) for new, part in zip(self.new, self.parts)))


class States:
    """The optimizer's states, made where they are missing.

    Args:
        algorithm: the optimizer's.
        states: `optimizer.state`.
    """

    def __init__(self, algorithm: Algorithm, states: MutableMapping[Tensor, State]) -> None:
        self.algorithm, self.states = algorithm, states

    def existing(self, p: Tensor) -> State:
        """Return a parameter's state as it is; empty if there is none."""
        return self.states.get(p) or {}

    def of(self, group: Group, spec: UpdateSpec, p: Tensor) -> State:
        """Return a parameter's state, made if there is none."""
        state = self.states[p]
        if not state:
            state.update(self.new(group, spec, p))
        return state

    def new(self, group: Group, spec: UpdateSpec, p: Tensor) -> State:
        """Return the state of a parameter that has none."""
        state = self.algorithm.init_state(group, p)
        return {"step": new_step_counter(group, p), **state} if spec.counts_steps else state

    def fill(self, group: Group, spec: UpdateSpec, part: Part) -> None:
        """Make the states that `init_state` has left for the first step: zeros."""
        for p, g, state in zip(part.params, part.grads, part.states):
            for name in spec.state_names:
                if state.get(name) is None:
                    state[name] = self.zeros(p, spec.lazy_dtype(group, p, g))

    def zeros(self, p: Tensor, dtype: torch.dtype) -> Tensor:
        """Return zeros in the shape and layout of a parameter."""
        return torch.zeros_like(p, dtype=dtype, memory_format=torch.preserve_format)


class PredictedStates(States):
    """The states as the next step would find them: nothing is changed, and nothing allocated."""

    def of(self, group: Group, spec: UpdateSpec, p: Tensor) -> State:
        state = self.existing(p)
        return dict(state) if state else self.new(group, spec, torch.empty_like(p, device="meta"))

    def zeros(self, p: Tensor, dtype: torch.dtype) -> Tensor:
        return super().zeros(torch.empty_like(p, device="meta"), dtype)


def route_parts(
    groups: list[Group], specs: Sequence[UpdateSpec], parts: Sequence[Part], states: States
) -> list[tuple[Part, Route]]:
    """Return the route of each part, once it is known that all gradients and states can be used.

    Args:
        groups: the optimizer's.
        specs: the spec of each group.
        parts: parameters with gradients, divided by group, type, dtype, device and layout.
        states: where their states come from.

    Raises:
        RuntimeError: a gradient that cannot be used, or a state that does not fit its parameter; named.
    """
    routed = []
    for part in parts:
        group, spec = groups[part.group], specs[part.group]
        route = choose_route(group, spec, part)
        check_part(states.algorithm, group, spec, part, route.kind)
        check_states(states.algorithm, group, spec, part, [states.existing(p) for p in part.params])
        routed.append((part, route))
    return routed


def assign(
    groups: list[Group],
    specs: Sequence[UpdateSpec],
    routed: Sequence[tuple[Part, Route]],
    states: States,
    clip: Clip | None,
    scaled: bool,
) -> list[Assignment]:
    """Return the parameters of all groups, divided into batches; missing states are made.

    Args:
        groups: the optimizer's.
        specs: the spec of each group.
        routed: parts with their routes.
        states: where their states come from.
        clip: the clip policy.
        scaled: whether a GradScaler ever handed over what it found, so that only the device knows which steps count.
    """
    found: dict[Hashable, Assignment] = {}

    def add(key: Hashable, kind: Kind, counts_on_device: bool, part: Part, new: bool, reason: str) -> None:
        if key not in found:
            found[key] = Assignment(kind, specs[part.group], counts_on_device)
        found[key].add(part, new, reason)

    for part, route in routed:
        group, spec = groups[part.group], specs[part.group]
        names, keeps_state = spec.state_names, bool(spec.state_names) or spec.counts_steps
        part = replace(part, states=[states.of(group, spec, p) if keeps_state else {} for p in part.params])
        on_device = counts_on_device(group, spec, part.states, clip, scaled)
        for (dtypes, there), some in part.divided_by(list(zip(part.state_dtypes(names), on_device))):
            new = None in dtypes
            if route.kind is Kind.KERNELS:
                if new:
                    states.fill(group, spec, some)
                for dtypes, alike in some.divided_by(some.state_dtypes(names)):
                    add(kernel_key(spec, alike, dtypes, there), route.kind, there, alike, new, route.reason)
                continue
            kind, reason = route
            if kind is Kind.TORCH_FUSED and not {*dtypes} <= {some.params[0].dtype, None}:
                # As after model.double() in mid-training.
                kind, reason = Route(Kind.TORCH, "states of another dtype than the parameter")
            add((kind, part.group, new, part.repeated), kind, there, some, new, reason)
    return list(found.values())


def kernel_key(spec: UpdateSpec, part: Part, state_dtypes: tuple[Any, ...], counts_on_device: bool) -> Hashable:
    """Return what the tensors of one launch share."""
    p, g = part.params[0], part.grads[0]
    arithmetic = spec.rule, spec.options, spec.hyperparameters, spec.state_names
    return arithmetic, counts_on_device, p.device, p.dtype, g.dtype, state_dtypes


def counts_on_device(
    group: Group, spec: UpdateSpec, states: list[State], clip: Clip | None, scaled: bool
) -> list[bool]:
    """Return, for each state, whether the host cannot read its counter or the hyperparameters without waiting."""
    if any(map(_is_off_the_host, spec.values(group))):
        return [True] * len(states)
    asked = bool(group.get("fused") or group.get("capturable") or scaled or (clip is not None and clip.skip_nonfinite))
    return [spec.counts_steps and (asked or _is_off_the_host(state["step"])) for state in states]


def check_states(algorithm: Algorithm, group: Group, spec: UpdateSpec, part: Part, states: Sequence[State]) -> None:
    """Raise `RuntimeError` for a state that is no tensor, or of another shape or device than its parameter.

    States that are missing will be made; only a counter must be there if anything else is.
    """

    def refuse(p: Tensor, name: str, why: str) -> RuntimeError:
        return RuntimeError(
            f"{algorithm.name}: {name_of(group, part.group, p)} has a state {name!r} {why}; load the checkpoint of "
            "this model, or delete the parameter's state to start it anew"
        )

    shapes, devices = list(map(SHAPE_OF, part.params)), list(map(DEVICE_OF, part.params))
    for name in spec.state_names:
        column = [state.get(name) for state in states]
        if all(isinstance(state, Tensor) for state in column):
            if list(map(SHAPE_OF, column)) == shapes and list(map(DEVICE_OF, column)) == devices:
                continue
        for p, state in zip(part.params, column):
            if state is not None and not isinstance(state, Tensor):
                raise refuse(p, name, f"that is no tensor but {type(state).__name__}")
            if state is not None and state.shape != p.shape:
                raise refuse(p, name, f"of shape {tuple(state.shape)}")
            if state is not None and state.device != p.device:
                raise refuse(p, name, f"on {state.device}, and is itself on {p.device}")
    if spec.counts_steps:
        for p, state in zip(part.params, states):
            if state and not isinstance(state.get("step"), Tensor):
                raise refuse(p, "step", f"that is no tensor but {type(state.get('step')).__name__}")


def _is_off_the_host(value: object) -> bool:
    return isinstance(value, Tensor) and not value.is_cpu
