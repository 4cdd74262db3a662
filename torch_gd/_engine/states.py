"""The optimizer's states: made where they are missing, and checked before a kernel trusts their addresses."""

from collections.abc import Callable, MutableMapping, Sequence

import torch
from torch import Tensor
from torch.utils._foreach_utils import _group_tensors_by_device_and_dtype

from .encoding import Column
from .layout import DEVICE_OF, DTYPE_OF, LAYOUT_OF, SHAPE_OF
from .parts import Part
from .remainders import settle
from .routes import Kind, name_of
from .shard_states import LocalState, states_of_owners
from .spec import Algorithm, Group, State, UpdateSpec, decayed_dtype, new_step_counter
from .stored_states import converted, fits, why_not_convertible


class States:
    """The optimizer's states, made where they are missing.

    Args:
        algorithm: the optimizer's.
        states: `optimizer.state`.

    Attributes:
        made: the states made so far.
    """

    def __init__(self, algorithm: Algorithm, states: MutableMapping[Tensor, State]) -> None:
        self.algorithm, self.states = algorithm, states
        self.made: list[State] = []

    def existing(self, part: Part) -> list[State]:
        """Return the states of a part's parameters as they are; empty where there is none."""
        return part.of_parameters(self.states.get(p) or {} for p in part.holders)

    def of(self, group: Group, spec: UpdateSpec, part: Part) -> list[State]:
        """Return the states of a part's parameters; make those that are missing, and add them to `made`."""
        states = part.of_parameters(self.states[p] for p in part.holders)
        for p, state in zip(part.params, states):
            if not state:
                with torch.inference_mode(False):  # lives longer than a step that may be taken in that mode
                    new = self.new(group, spec, p)
                    state.update(new)
                    # A product is no DTensor, though its shape may be the parameter's.
                    states_of_owners([state])[0].update({name: new[name] for name in spec.products})
                self.made.append(state)
            if spec.columns:
                settle(p, state)
                if not fits(spec, p, state):
                    self._store(group, spec, p, state)
        return states

    def _store(self, group: Group, spec: UpdateSpec, p: Tensor, state: State) -> None:
        """Store a state as the spec says, whatever it was stored as."""
        found = converted(spec, p, state)
        if "step" not in state:  # of an optimizer that counts none; it has taken steps if it has states
            found["step"] = new_step_counter(group, p, float(any(name in state for name in spec.own_names)))
        for name in spec.own_names:
            for key in (name, *Column(name, "signed8").stored):
                state.pop(key, None)
        state.pop("remainder", None)
        for key, value in found.items():
            state[key] = value

    def new(self, group: Group, spec: UpdateSpec, p: Tensor) -> State:
        """Return the state of a parameter that has none."""
        state = self.algorithm.init_state(group, p)
        for name in spec.products:
            if name not in state:
                raise TypeError(f"{self.algorithm.name}.init_state() makes no {name!r}, a product of its spec()")
        return {"step": new_step_counter(group, p), **state} if spec.counts_steps else state

    def fill(self, group: Group, spec: UpdateSpec, part: Part) -> None:
        """Add zeros for the states that `init_state` does not make, in the dtype that the first gradient calls for."""
        for p, g, state in zip(part.params, part.grads, part.states):
            for name in spec.state_names:
                if state.get(name) is None:
                    state[name] = self.zeros(p, spec.lazy_dtype(group, p, g))

    def zeros(self, p: Tensor, dtype: torch.dtype) -> Tensor:
        """Return zeros in the shape and layout of a parameter."""
        with torch.inference_mode(False):
            return torch.zeros_like(p, dtype=dtype, memory_format=torch.preserve_format)


class PredictedStates(States):
    """The states as the next step would find them: nothing is changed, and nothing allocated."""

    def of(self, group: Group, spec: UpdateSpec, part: Part) -> list[State]:
        states: list[State] = []
        for p, state in zip(part.params, self.existing(part)):
            like = torch.empty_like(p, device="meta")
            states.append(dict(state) if state else self.new(group, spec, like))
            if spec.columns and not fits(spec, p, state):
                states[-1].update(converted(spec, like, {}))
                states[-1].setdefault("step", new_step_counter(group, p))
        return states

    def zeros(self, p: Tensor, dtype: torch.dtype) -> Tensor:
        return super().zeros(torch.empty_like(p, device="meta"), dtype)


def check_states(
    algorithm: Algorithm, group: Group, spec: UpdateSpec, part: Part, states: Sequence[State], kind: Kind
) -> None:
    """Raise `RuntimeError` for an incomplete state, or one whose type, shape, device, dtype or layout does not fit.

    A parameter without any state passes, since its state will be made; so does one that lacks only what `init_state`
    leaves out.
    """

    def refusal(p: Tensor, why: str) -> RuntimeError:
        return RuntimeError(
            f"{algorithm.name}: {name_of(group, part.group, p)} has {why}; load the checkpoint of this model, or "
            "delete the parameter's state to start it anew"
        )

    for p, mapping in zip(part.params, states):
        if isinstance(mapping, LocalState) and (whole := mapping.whole_tensors(spec.state_names)):
            raise refusal(p, f"a state {whole[0]!r} that is a whole tensor, and is itself a DTensor")
    if spec.columns:
        for p, its in zip(part.params, states):
            if why := why_not_convertible(spec, p, its):
                raise refusal(p, why)
        _check_counters(spec, part, states, refusal)
        return
    layouts = part.params[0].layout, part.grads[0].layout  # the momentum of sparse gradients is sparse in torch
    expected = [list(map(ask, part.params)) for ask in (SHAPE_OF, DEVICE_OF, DTYPE_OF, LAYOUT_OF)]
    for name in spec.state_names:
        column = [state.get(name) for state in states]
        if all(isinstance(state, Tensor) for state in column):
            if [list(map(ask, column)) for ask in (SHAPE_OF, DEVICE_OF, DTYPE_OF, LAYOUT_OF)] == expected:
                continue
        for p, others, state in zip(part.params, states, column):
            if state is None:
                if others and name in algorithm.init_state(group, torch.empty_like(p, device="meta")):
                    raise refusal(p, _lacks(name, others))
            elif not isinstance(state, Tensor):
                raise refusal(p, f"a state {name!r} that is no tensor but {type(state).__name__}")
            elif state.shape != p.shape:
                raise refusal(p, f"a state {name!r} of shape {tuple(state.shape)}")
            elif state.device != p.device:
                raise refusal(p, f"a state {name!r} on {state.device}, and is itself on {p.device}")
            elif state.layout not in layouts or state.is_complex() != p.is_complex() or not _can_be_averaged(state):
                raise refusal(
                    p, f"a state {name!r} of {state.dtype}, {state.layout}, and is itself {p.dtype}, {p.layout}"
                )
    _check_counters(spec, part, states, refusal)
    if kind is not Kind.KERNELS:
        check_dtypes_for_torch(algorithm, group, spec, part, states)


def _check_counters(
    spec: UpdateSpec, part: Part, states: Sequence[State], refusal: Callable[[Tensor, str], RuntimeError]
) -> None:
    for name in spec.counters:
        for p, state in zip(part.params, states):
            step = state.get(name)
            if state and step is None and not (spec.columns and name == "step"):
                raise refusal(p, _lacks(name, state))
            if state and not isinstance(step, Tensor):
                raise refusal(p, f"a state {name!r} that is no tensor but {type(step).__name__}")
            if isinstance(step, Tensor) and step.numel() != 1:
                raise refusal(p, f"a state {name!r} of shape {tuple(step.shape)}, which is not one number")
            if isinstance(step, Tensor) and name in spec.products and not _is_number(step):
                raise refusal(p, f"a state {name!r} of {step.dtype}, {step.layout}, which cannot be multiplied")


def _lacks(name: str, others: State) -> str:
    if f"{name}_code" in others:
        return (
            f"a state {name!r} in 8 bits, for which its group's precision is needed; to go on without, load "
            "to_float32_state_dict() into a new optimizer"
        )
    return f"no state {name!r}, but others: {', '.join(str(key) for key, value in others.items() if value is not None)}"


def _can_be_averaged(state: Tensor) -> bool:
    return state.is_complex() or (state.is_floating_point() and state.element_size() > 1)  # not in eight bits


def _is_number(state: Tensor) -> bool:
    return state.is_floating_point() and _can_be_averaged(state) and state.layout == torch.strided


def check_dtypes_for_torch(
    algorithm: Algorithm, group: Group, spec: UpdateSpec, part: Part, states: Sequence[State]
) -> None:
    """Raise `RuntimeError` for dtypes that torch's implementation would refuse in the middle of a step."""
    if spec.layerwise:
        return  # whose implementations on torch's operators take any
    if group["foreach"] and all(name in state for state in states for name in spec.state_names):
        columns: list[list[Tensor | None]] = [[state[name] for state in states] for name in spec.state_names]
        try:
            _group_tensors_by_device_and_dtype([[*part.params], [*part.grads], *columns])
        except RuntimeError as error:
            raise RuntimeError(f"{algorithm.name}: {name_of(group, part.group, part.params[0])} {error}") from error
    if not spec.lerped:
        return
    for p, g, state in zip(part.params, part.grads, states):
        held = state.get(spec.lerped)
        dtype = p.dtype if held is None else held.dtype
        if dtype != decayed_dtype(group, p, g):
            raise RuntimeError(
                f"{algorithm.name}: {name_of(group, part.group, p)} is {p.dtype}, its gradient {g.dtype} and its state "
                f"{spec.lerped!r} {dtype}; torch's implementation takes a gradient and such a state of one dtype only"
            )
