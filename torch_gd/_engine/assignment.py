"""Which parameters one call updates together: parts of all groups, gathered by route, dtypes and device."""

from collections.abc import Hashable, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .clip import Clip
from .layout import SHAPE_OF
from .parts import Part
from .routes import Kind, Route, choose_route, name_of
from .spec import Algorithm, Group, State, UpdateSpec


@dataclass
class Assignment:
    """Parameters for one batch, in parts, with what is known of each part.

    Args:
        kind: the implementation.
        spec: the spec of their groups.
        counts_on_device: whether the GPU alone may read their step counters.
        parts: the parameters, with gradients and states.
        missing: whether each part's states were missing, and are new or left for torch to make.
        reasons: why each part takes this route.
    """

    kind: Kind
    spec: UpdateSpec
    counts_on_device: bool
    parts: list[Part] = field(default_factory=list)
    missing: list[bool] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def add(self, part: Part, missing: bool, reason: str) -> None:
        """Take one more part."""
        self.parts.append(part)
        self.missing.append(missing)
        self.reasons.append(reason)


class States:
    """The optimizer's states, made where they are missing.

    Args:
        algorithm: the optimizer's.
        states: `optimizer.state`.
    """

    def __init__(self, algorithm: Algorithm, states: MutableMapping[Tensor, State]) -> None:
        self.algorithm, self.states = algorithm, states

    def of(self, group: Group, p: Tensor) -> State:
        """Return a parameter's state."""
        state = self.states[p]
        if not state:
            state.update(self.algorithm.init_state(group, p))
        return state

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

    def of(self, group: Group, p: Tensor) -> State:
        state = self.states.get(p)
        return dict(state) if state else self.algorithm.init_state(group, torch.empty_like(p, device="meta"))

    def zeros(self, p: Tensor, dtype: torch.dtype) -> Tensor:
        return super().zeros(torch.empty_like(p, device="meta"), dtype)


def assign(
    groups: list[Group],
    specs: Sequence[UpdateSpec],
    parts: Sequence[Part],
    states: States,
    clip: Clip | None,
    scaled: bool,
) -> list[Assignment]:
    """Return the parameters of all groups, divided into batches.

    Args:
        groups: the optimizer's.
        specs: the spec of each group.
        parts: the parameters, divided by group, type, dtype, device and layout.
        states: where their states come from.
        clip: the clip policy.
        scaled: whether a GradScaler ever handed over what it found, so that only the device knows which steps count.

    Raises:
        RuntimeError: a state does not fit its parameter.
    """
    found: dict[Hashable, Assignment] = {}

    def add(key: Hashable, kind: Kind, counts_on_device: bool, part: Part, missing: bool, reason: str) -> None:
        if key not in found:
            found[key] = Assignment(kind, specs[part.group], counts_on_device)
        found[key].add(part, missing, reason)

    for part in parts:
        group, spec = groups[part.group], specs[part.group]
        route, names = choose_route(group, spec, part), spec.state_names
        part = replace(part, states=[states.of(group, p) if names else {} for p in part.params])
        on_device = counts_on_device(group, spec, part.states, clip, scaled)
        for (dtypes, there), some in part.divided_by(list(zip(part.state_dtypes(names), on_device))):
            missing = None in dtypes
            if route.kind is Kind.KERNELS:
                if missing:
                    states.fill(group, spec, some)
                check_states(states.algorithm, group, spec, some)
                for dtypes, alike in some.divided_by(some.state_dtypes(names)):
                    add(kernel_key(spec, alike, dtypes, there), route.kind, there, alike, missing, route.reason)
                continue
            kind, reason = route
            if not missing:
                check_states(states.algorithm, group, spec, some)
            if kind is Kind.TORCH_FUSED and not {*dtypes} <= {some.params[0].dtype, None}:
                # As after model.double() in mid-training.
                kind, reason = Route(Kind.TORCH, "states of another dtype than the parameter")
            add((kind, part.group, missing, part.repeated), kind, there, some, missing, reason)
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
    return ["step" in state and (asked or _is_off_the_host(state["step"])) for state in states]


def check_states(algorithm: Algorithm, group: Group, spec: UpdateSpec, part: Part) -> None:
    """Raise `RuntimeError` for a state of another shape or on another device than its parameter."""
    shapes = list(map(SHAPE_OF, part.params))
    for name in spec.state_names:
        column = [state[name] for state in part.states]
        if list(map(SHAPE_OF, column)) == shapes:
            continue
        p, state = next((p, state) for p, state in zip(part.params, column) if state.shape != p.shape)
        raise RuntimeError(
            f"{algorithm.name}: {name_of(group, part.group, p)} has a state {name!r} of shape {tuple(state.shape)}; "
            "load the checkpoint of this model, or delete the state of a parameter that was resized"
        )


def _is_off_the_host(value: object) -> bool:
    return isinstance(value, Tensor) and not value.is_cpu
