"""States that are stored by codecs: made, checked, and converted from what a checkpoint holds."""

import torch
from torch import Tensor

from .encoding import Column, decode, encode, scale_shape
from .spec import State, UpdateSpec


def values_of(spec: UpdateSpec, state: State) -> dict[str, Tensor]:
    """Return the states that are there under the algorithm's own names, float32, however they are stored."""
    found = {}
    for name in spec.own_names:
        coded = Column(name, "unsigned8" if name in spec.non_negative else "signed8")
        for column in (coded, Column(name)):
            stored = [state.get(key) for key in column.stored]
            if all(isinstance(value, Tensor) for value in stored):
                found[name] = decode(column, stored)  # type: ignore[arg-type]  # all are tensors
    return found


def fits(spec: UpdateSpec, p: Tensor, state: State) -> bool:
    """Return whether a state is stored as a spec says."""
    return "step" in state and all(
        _is_stored(state.get(key), dtype, shape, p)
        for column in spec.columns
        for key, dtype, shape in zip(column.stored, column.dtypes, column.shapes(p.shape))
    )


def _is_stored(value: object, dtype: torch.dtype | None, shape: torch.Size, p: Tensor) -> bool:
    if not isinstance(value, Tensor):
        return False
    found = value.dtype, value.shape, value.device, value.layout
    return found == (dtype, shape, p.device, torch.strided)


def converted(spec: UpdateSpec, p: Tensor, state: State) -> State:
    """Return the states that a spec says, made of what is there; zeros where there is nothing.

    Args:
        spec: with columns.
        p: the parameter.
        state: its state, which is not changed.

    Raises:
        RuntimeError: a state does not have the parameter's shape.
    """
    there = values_of(spec, state)
    found: State = {}
    with torch.inference_mode(False), torch.no_grad():
        for column in spec.columns:
            made = [
                torch.zeros_like(p, dtype=dtype) if shape == p.shape else p.new_zeros(shape, dtype=dtype)
                for dtype, shape in zip(column.dtypes, column.shapes(p.shape))
            ]
            if column.name in there:
                value = there[column.name].to(p.device)
                if value.shape != p.shape:
                    raise RuntimeError(f"a state {column.name!r} of shape {tuple(value.shape)}")
                encode(column, value, made)
            elif column.stored == ("remainder",) and isinstance(state.get("remainder"), Tensor):
                made[0].copy_(_other_remainder(state["remainder"], column))
            found.update(zip(column.stored, made))
    return found


def _other_remainder(remainder: Tensor, column: Column) -> Tensor:
    """Return the bits that another remainder keeps of a weight."""
    (dtype,) = column.dtypes
    if remainder.dtype == dtype:
        return remainder
    if dtype == torch.int16:
        return remainder.to(torch.int16) << 8
    return ((remainder.to(torch.int32) + 0x80) >> 8).clamp(-128, 127)


def why_not_convertible(spec: UpdateSpec, p: Tensor, state: State) -> str:
    """Return why a state can neither be used nor converted, to follow "has"; empty if it can."""
    for name in (*spec.own_names, "remainder"):
        for key in Column(name, "signed8").stored[:1] + Column(name).stored:
            value = state.get(key)
            if value is not None and not isinstance(value, Tensor):
                return f"a state {key!r} that is no tensor but {type(value).__name__}"
            if value is not None and value.shape != p.shape:
                return f"a state {key!r} of shape {tuple(value.shape)}"
            if value is not None and value.device != p.device:
                return f"a state {key!r} on {value.device}, and is itself on {p.device}"
        code, scale = (state.get(key) for key in Column(name, "signed8").stored)
        if isinstance(code, Tensor) and not (isinstance(scale, Tensor) and scale.shape == scale_shape(p.shape)):
            return f"a state {name}_code without the {name}_scale that fits it"
    return ""
