"""Which parameters one call updates together: parts of all groups, gathered by route, dtypes and device."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from typing import Any

from torch import Tensor

from ..triton_kernels import runtime
from .clip import Clip, measures, unit_limits, waits_for_ranks
from .counters import join_counters
from .parts import Part
from .ranks import ProcessGroups, why_not_measured
from .routes import Kind, Route, check_part, choose_route, name_of
from .shards import is_dtensor, updates_locally
from .spec import Algorithm, Group, State, UpdateSpec
from .states import States, check_states
from .storage import by_storage, stored_spec


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
    def owners(self) -> list[Tensor] | None:
        """Return the DTensors whose shards the parameters are; None if they are no shards."""
        return None if self.parts[0].owners is None else list(chain.from_iterable(part.holders for part in self.parts))

    @property
    def spread_over(self) -> ProcessGroups:
        """Return the process groups over whose ranks norms of the parameters are added up."""
        return self.parts[0].spread_over

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


def route_parts(
    groups: list[Group], specs: Sequence[UpdateSpec], parts: Iterable[Part], states: States, clip: Clip | None
) -> list[tuple[Part, Route]]:
    """Return the route of each part, once it is known that all gradients and states can be used.

    Args:
        groups: the optimizer's.
        specs: the spec of each group.
        parts: parameters with gradients, divided by group, type, dtype, device and layout.
        states: where their states come from.
        clip: the clip policy.

    Raises:
        RuntimeError: a gradient that cannot be used, or a state that does not fit its parameter; named.
    """
    routed = []
    local = chain.from_iterable(in_shards(part, groups[part.group], states) for part in parts)
    stored = chain.from_iterable(
        by_storage(states.algorithm, groups[part.group], specs[part.group], part) for part in local
    )
    for part in stored:
        group, spec = groups[part.group], stored_spec(specs[part.group], part.storage)
        route = choose_route(group, spec, part)
        if part.storage is not None:
            kind = Kind.KERNELS if route.kind is Kind.KERNELS else Kind.DECODED
            route = Route(kind, "; ".join(filter(None, (route.reason, part.storage.why))))
        check_part(states.algorithm, group, spec, part, route.kind)
        check_states(states.algorithm, group, spec, part, states.existing(part), route.kind)
        check_measured(states.algorithm, group, spec, part, clip)
        routed += [(some, route) for some in (part.by_ranks() if measures(clip) or spec.layerwise else [part])]
    return routed


def in_shards(part: Part, group: Group, states: States) -> list[Part]:
    """Return a part of DTensors as a part of the shards that can be updated here, and one of the rest."""
    if not is_dtensor(part.params[0]) or group["differentiable"] or runtime.active.watched():
        return [part]
    fits = list(map(updates_locally, part.params, part.grads, states.existing(part)))
    return [some.as_shards() if fit else some for fit, some in part.divided_by(fits)]


def check_measured(algorithm: Algorithm, group: Group, spec: UpdateSpec, part: Part, clip: Clip | None) -> None:
    """Raise `RuntimeError` for a parameter of which a rank's part would be measured for the whole."""
    rows = "rows to clip" if unit_limits(clip) is not None else ""
    measuring: list[tuple[str, str, ProcessGroups, str]] = []  # what measures, what to do, groups, what must be there
    if clip is not None and waits_for_ranks(clip):
        advice = "set optimizer.clip = None, and call torch.nn.utils.clip_grad_norm_ before step()"
        measuring.append((repr(clip), advice, clip.groups, rows))
    if spec.layerwise:
        measuring.append((algorithm.name, "redistribute() it", (), "layers"))
    for what, advice, extra, needed in measuring:
        if is_dtensor(part.holders[0]) and part.owners is None:
            raise RuntimeError(
                f"{algorithm.name}: {name_of(group, part.group, part.holders[0])} is a DTensor that {what} cannot "
                "measure, since it is not updated by this rank's shard (torch_gd.explain(optimizer) tells why); "
                f"{advice}"
            )
        for p in part.params:
            if why := why_not_measured(p, extra, needed):
                raise RuntimeError(f"{algorithm.name}: {name_of(group, part.group, p)} {why}")


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
            found[key] = Assignment(kind, stored_spec(specs[part.group], part.storage), counts_on_device)
        found[key].add(part, new, reason)

    for part, route in routed:
        group, spec = groups[part.group], stored_spec(specs[part.group], part.storage)
        names, keeps_state = spec.state_names, bool(spec.state_names) or spec.counts_steps
        part = replace(part, states=states.of(group, spec, part) if keeps_state else [{} for _ in part.params])
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
            add(
                (kind, part.group, new, part.in_turn, part.owners is None, part.spread_over, spec.columns),
                kind,
                there,
                some,
                new,
                reason,
            )
    for name in dict.fromkeys(chain.from_iterable(one.spec.counters for one in found.values())):
        join_counters(states.made, name)
    return list(found.values())


def kernel_key(spec: UpdateSpec, part: Part, state_dtypes: tuple[Any, ...], counts_on_device: bool) -> Hashable:
    """Return what the tensors of one launch share."""
    p, g = part.params[0], part.grads[0]
    arithmetic = spec.rule, spec.options, spec.hyperparameters, spec.state_names, spec.columns
    return arithmetic, counts_on_device, p.device, p.dtype, g.dtype, state_dtypes, part.owners is None, part.spread_over


def counts_on_device(
    group: Group, spec: UpdateSpec, states: list[State], clip: Clip | None, scaled: bool
) -> list[bool]:
    """Return, for each state, whether the host cannot read its counter or the hyperparameters without waiting."""
    if any(map(_is_off_the_host, spec.values(group))):
        return [True] * len(states)
    asked = bool(group.get("fused") or group.get("capturable") or scaled or (clip is not None and clip.skip_nonfinite))
    return [bool(spec.counters) and (asked or _any_off_the_host(spec, state)) for state in states]


def _any_off_the_host(spec: UpdateSpec, state: State) -> bool:
    return any(_is_off_the_host(state[name]) for name in spec.counters)


def _is_off_the_host(value: object) -> bool:
    return isinstance(value, Tensor) and not value.is_cpu
