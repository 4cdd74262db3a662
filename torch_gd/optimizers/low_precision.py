"""An optimizer with a precision: what it saves and loads, and conversion from and to float32."""

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .._engine.counters import join_counters
from .._engine.encoding import Column, encode
from .._engine.layout import is_plain
from .._engine.parts import Part, sharing_memory
from .._engine.precision import KEY
from .._engine.remainders import CHECKSUM, REMAINDER, float32_weight, saved_checksum
from .._engine.routes import name_of
from .._engine.shard_states import LocalState
from .._engine.shards import as_dtensor, is_dtensor, local_tensors
from .._engine.spec import Algorithm, Group, State
from .._engine.states import States
from .._engine.storage import HALF, by_storage, precision_of, stored_spec
from .._engine.stored_states import values_of, why_not_convertible

AllStates = MutableMapping[Tensor, State]


class UncastOptimizer(Optimizer):
    """torch's `Optimizer`, which loads the states of groups with a precision in the dtypes that they have."""

    _aside: Mapping[Tensor, dict[str, Any]] = MappingProxyType({})  # what `load_state_dict` must not cast

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load states and hyperparameters."""
        with _set_aside(self) as self._aside:
            super().load_state_dict(state_dict)

    def __setstate__(self, state: dict[str, Any]) -> None:
        if self._aside:
            _put_back(state["state"], self._aside)
        super().__setstate__(state)


def save_remainders(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
    """Put a checksum beside each remainder of a state dict: a hook, so that it comes before a user's own.

    One of 16 bits is saved as bfloat16, since no process group gathers or sends 16-bit integers; it shares its memory.
    """
    states = state_dict["state"]
    for group, packed in zip(optimizer.param_groups, state_dict["param_groups"]):
        if group.get(KEY) is None:
            continue
        packed[KEY] = precision_of(group).text  # type: ignore[union-attr]  # there is one, perhaps set as an object
        for p, i in zip(group["params"], packed["params"]):
            if i in states and (found := saved_checksum(*_local(p, states[i]))) is not None:
                states[i] = {**states[i], CHECKSUM: found}  # a dict of its own, since the other is the live one
                _view(p, states[i], torch.int16, torch.bfloat16)


def _view(p: Tensor, state: State, found: torch.dtype, wanted: torch.dtype) -> None:
    """View a remainder of one dtype as another one, in a state."""
    _, local = _local(p, state)
    if isinstance(remainder := local.get(REMAINDER), Tensor) and remainder.dtype == found:
        local[REMAINDER] = remainder.view(wanted)


@contextmanager
def _set_aside(optimizer: Optimizer) -> Iterator[dict[Tensor, dict[str, Any]]]:
    """Hide the states of groups with a precision from the next `load_state_dict`, which would cast them; yield them.

    All but `step`, which torch puts where it belongs. They are filled in once the users' pre-hooks have run.
    """
    aside: dict[Tensor, dict[str, Any]] = {}

    def take(_: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        groups, states = state_dict["param_groups"], dict(state_dict["state"])
        for group, saved in zip(optimizer.param_groups, groups):
            if saved.get(KEY, group.get(KEY)) is None:
                continue
            for p, i in zip(group["params"], saved["params"]):
                if isinstance(states.get(i), Mapping):
                    aside[p] = states[i]
                    states[i] = {key: value for key, value in states[i].items() if key == "step"}
        return {**state_dict, "state": states}

    handle = optimizer.register_load_state_dict_pre_hook(take)
    try:
        yield aside
    finally:
        handle.remove()
        aside.clear()


def _put_back(states: AllStates, aside: Mapping[Tensor, dict[str, Any]]) -> None:
    """Fill in states that were set aside: on the parameter's device, in the dtypes that they have."""
    for p, saved in aside.items():
        loaded = states[p]
        states[p] = {
            key: loaded[key] if key == "step" else value.to(device=p.device) if isinstance(value, Tensor) else value
            for key, value in saved.items()
        }
        _view(p, states[p], torch.bfloat16, torch.int16)


def float32_state_dict(algorithm: Algorithm, groups: list[Group], state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return a state dict of an optimizer as one of torch's, whose states are float32."""
    states, plain_groups = dict(state_dict["state"]), []
    for i, (group, packed) in enumerate(zip(groups, state_dict["param_groups"])):
        plain_groups.append({key: value for key, value in packed.items() if key != KEY})
        stored = [key for i in packed["params"] for key in states.get(i, ())]
        if group.get(KEY) is None and not any(key == REMAINDER or key.endswith("_code") for key in stored):
            continue
        for p, key in zip(group["params"], packed["params"]):
            if key in states and p.dtype in (*HALF, torch.float32):
                states[key] = _float32_state(algorithm, group, i, p, states[key])
                if not states[key]:
                    del states[key]
    return {**state_dict, "state": states, "param_groups": plain_groups}


def _float32_state(algorithm: Algorithm, group: Group, index: int, p: Tensor, state: State) -> State:
    spec = algorithm.checked_spec(group, index)
    made = algorithm.init_state(group, torch.empty_like(p, device="meta"))
    left_out = {REMAINDER, CHECKSUM, *spec.own_names}
    for name in spec.own_names:
        left_out.update(Column(name, "signed8").stored)
    if not (spec.counts_steps or "step" in made):
        left_out.add("step")
    values = values_of(spec, _local(p, state)[1])
    if "step" in state and float(state["step"]) == 0:  # torch makes these of the first gradient
        values = {name: value for name, value in values.items() if name in made}
    found = {key: value for key, value in state.items() if key not in left_out}
    found = {key: value.clone() if isinstance(value, Tensor) else value for key, value in found.items()}
    return {**found, **{name: as_dtensor(x, p) if is_dtensor(p) else x for name, x in values.items()}}


@torch.no_grad()
def float32_weights(groups: list[Group], states: AllStates) -> dict[Tensor, Tensor]:
    """Return the float32 value of each parameter of half precision or float32, and a copy of any other."""
    found: dict[Tensor, Tensor] = {}
    for group in groups:
        for p in group["params"]:
            precision = precision_of(group)
            if p.dtype not in (*HALF, torch.float32):
                found[p] = p.detach().clone()
                continue
            keeps_more = precision is not None and precision.weights is not None
            exact = float32_weight(*_local(p, (states.get(p) or {}) if keeps_more else {}))
            found[p] = as_dtensor(exact, p) if is_dtensor(p) else exact
    return found


@torch.no_grad()
def lower_weights(algorithm: Algorithm, groups: list[Group], states: AllStates) -> None:
    """Make bfloat16 of float32 parameters whose group stores weights so, and put the other bits into the state."""
    lowered = {
        p: i
        for i, group in enumerate(groups)
        if (precision := precision_of(group)) is not None and precision.weights is not None
        for p in group["params"]
        if p.dtype == torch.float32
    }
    specs = {i: algorithm.checked_spec(groups[i], i) for i in lowered.values()}
    sharing = set(map(id, sharing_memory(p for group in groups for p in group["params"])))
    for p, i in lowered.items():
        if why := _why_not_lowered(p, id(p) in sharing) or _why_not_kept(algorithm, groups[i], i, p, states):
            raise RuntimeError(f"{algorithm.name}: {name_of(groups[i], i, p)} {why}; nothing has been changed")
    there = States(algorithm, states)
    for p, i in lowered.items():
        exact = p.data
        p.data = exact.to(torch.bfloat16)
        try:
            (part,) = by_storage(algorithm, groups[i], specs[i], Part(i, [p], [p], []))
            spec = stored_spec(specs[i], part.storage)
            states[p].pop(CHECKSUM, None)
            (state,) = there.of(groups[i], spec, part)
            weight = spec.columns[0]
            encode(weight, exact, [p.data, *(state[key] for key in weight.stored)])
        except BaseException:
            p.data = exact
            raise
        p.grad = None
    for name in dict.fromkeys(name for spec in specs.values() for name in ("step", *spec.products)):
        join_counters(there.made, name)


def _why_not_lowered(p: Tensor, shares_memory: bool) -> str:
    if is_dtensor(p):
        return "is a DTensor, whose shards cannot be converted in place; call model.bfloat16() before it is sharded"
    if not is_plain(p):
        return f"is a {type(p).__name__} that cannot be converted in place; convert the model before"
    if shares_memory:
        return "shares memory with another parameter, which would be lost; convert the model before"
    return ""


def _why_not_kept(algorithm: Algorithm, group: Group, index: int, p: Tensor, states: AllStates) -> str:
    why = why_not_convertible(algorithm.checked_spec(group, index), p, states.get(p) or {})
    return f"has {why}" if why else ""


def _local(p: Tensor, state: State) -> tuple[Tensor, State]:
    """Return a parameter and its state, of a DTensor this rank's shards of both."""
    return (local_tensors([p])[0], LocalState(p, state)) if is_dtensor(p) else (p, state)
