"""What the next step would do, batch by batch, without doing it."""

from collections.abc import MutableMapping
from dataclasses import dataclass
from operator import is_not

import torch
from torch import Tensor

from .assignment import Assignment, assign, route_parts
from .batch import is_walkable
from .clip import Clip, measures, unit_limits
from .encoding import Column
from .groups import check_options
from .layout import has_real_storage, same_layout
from .parts import Part, ids_in_turn, parts_of
from .routes import Kind, Route
from .shards import local_tensors
from .spec import Algorithm, Group, State, UpdateSpec
from .states import PredictedStates
from .torch_batch import choose_foreach

SKIPPED, REFUSED = "left out", "raises"


@dataclass(frozen=True)
class BatchReport:
    """Tensors that one call updates.

    Attributes:
        groups: indices of their parameter groups.
        tensors: how many they are.
        elements: how many elements they have.
        dtypes: of parameters, and of gradients and states where these differ.
        device: where they are.
        route: "our kernels", "torch fused", "torch foreach", "torch for-loop", "torch default" (torch chooses), "left
            out" (no gradient) or "raises".
        reason: why they take this route.
        launches: launches of our kernels; None on torch's routes.
        bytes_an_element: bytes read and written for each element; on torch's routes the least, as torch may move more.
    """

    groups: tuple[int, ...]
    tensors: int
    elements: int
    dtypes: str
    device: str
    route: str
    reason: str
    launches: int | None
    bytes_an_element: float


def report_step(
    algorithm: Algorithm, groups: list[Group], states: MutableMapping[Tensor, State], clip: Clip | None, scaled: bool
) -> list[BatchReport]:
    """Return a report for each batch of the next step; nothing is changed, and nothing waited for.

    If no parameter has a gradient yet, each gradient is taken to be like its parameter.

    Args:
        algorithm: the optimizer's.
        groups: its parameter groups.
        states: its states.
        clip: its clip policy.
        scaled: whether a GradScaler has ever handed over what it found.
    """
    before_backward = all(p.grad is None for group in groups for p in group["params"])
    specs: list[UpdateSpec] = []
    wrong: dict[int, str] = {}
    for i, group in enumerate(groups):
        try:
            specs.append(algorithm.checked_spec(group, i))
            if before_backward or any(p.grad is not None for p in group["params"]):
                check_options(algorithm, i, specs[i], group)
        except (TypeError, ValueError, RuntimeError) as error:
            wrong[i] = str(error)
            specs[i:] = [None]  # type: ignore[list-item]  # none of its parts is routed
    in_turn = ids_in_turn(groups)
    routed: list[tuple[Part, Route]] = []
    there = PredictedStates(algorithm, states)
    reports: list[BatchReport] = []
    without_grad: dict[torch.device, list[tuple[int, Tensor]]] = {}
    for i, group in enumerate(groups):
        params = list(group["params"])
        grads = [p if before_backward and p.requires_grad else p.grad for p in params]
        for p, g in zip(params, grads):
            if g is None:
                without_grad.setdefault(p.device, []).append((i, p))
        for part in parts_of(i, params, grads, in_turn):
            if i in wrong:
                reports.append(_idle(REFUSED, wrong[i], [(i, p) for p in part.params]))
                continue
            try:
                routed += route_parts(groups, specs, [part], there, clip)
            except RuntimeError as error:
                reports.append(_idle(REFUSED, str(error), [(i, p) for p in part.params]))
    for assignment in assign(groups, specs, routed, there, clip, scaled):
        reports.append(_report(assignment, groups, clip, before_backward))
    return reports + [_idle(SKIPPED, "no gradient", found) for found in without_grad.values()]


def _report(assignment: Assignment, groups: list[Group], clip: Clip | None, before_backward: bool) -> BatchReport:
    parts, spec = assignment.parts, assignment.spec
    group = groups[parts[0].group]
    params, grads = assignment.params, assignment.grads
    elements = sum(p.numel() for p in params)
    route, reasons = assignment.kind.value, list(dict.fromkeys(assignment.reasons))
    launches = None
    clip_by_kernel = clip if assignment.kind is Kind.KERNELS else None  # torch's routes: the least, without clipping
    moved = sum(_bytes_an_element(spec, group, part, clip_by_kernel) * _elements(part) for part in parts)
    if assignment.kind is Kind.KERNELS:
        launches = 1 + assignment.counts_on_device + measures(clip) + (unit_limits(clip) is not None)
        if spec.layerwise:  # measures, finds the ratios, with a launch more for those of whole tensors, and applies
            launches += 3 if assignment.owners is not None and assignment.spread_over else 2
        launches = launches if elements else 0
    elif assignment.kind is Kind.TORCH:
        route = {True: "torch foreach", False: "torch for-loop", None: "torch default"}[
            choose_foreach(assignment, group)
        ]
    if assignment.kind not in (Kind.TORCH, Kind.DECODED):
        reasons += _detours(params, [] if before_backward else grads, clip)
    if assignment.owners is not None:
        reasons.append("this rank's shards of DTensors")
        found = [] if before_backward else local_tensors(p.grad for p in assignment.owners)  # type: ignore[misc]
        if elsewhere := sum(map(is_not, found, grads)):
            reasons.append(f"gradients redistributed first: {elsewhere}")
    if clip is not None:
        reasons.append(f"clip={clip!r}")
    if spec.columns:
        kept = params[0].itemsize + sum(column.bytes for column in spec.columns)
        reasons.append(f"{kept:g} bytes kept an element: {', '.join(map(_stored_as, spec.columns))}")
    if any(groups[part.group].get("l1") for part in parts):
        reasons.append("l1")
    if before_backward:
        reasons.append("gradients assumed like their parameters")
    return BatchReport(
        groups=tuple(dict.fromkeys(part.group for part in parts)),
        tensors=len(params),
        elements=elements,
        dtypes="; ".join(dict.fromkeys(_dtypes(spec, group, part) for part in parts)),
        device=str(params[0].device),
        route=route,
        reason="; ".join(reasons),
        launches=launches,
        bytes_an_element=moved / elements if elements else 0,
    )


def _bytes_an_element(spec: UpdateSpec, group: Group, part: Part, clip: Clip | None) -> float:
    p, g = part.params[0].itemsize, part.grads[0].itemsize
    states: float = sum(column.bytes for column in spec.columns)
    if not spec.columns:
        states = sum(dtype.itemsize for dtype in _state_dtypes(spec, group, part))
    moved = 2 * p + g + 2 * states
    if spec.layerwise == "update":  # the other pass reads what the update is derived from, states that fit, again
        late = bool(spec.columns) or torch.float16 in _state_dtypes(spec, group, part)
        moved += p + states + (g if late else 0)
    elif spec.layerwise == "gradient":
        moved += p + g
    if measures(clip):
        moved += g
    elif unit_limits(clip) is not None:
        moved += p + g
    elif clip is not None and clip.in_kernel() is None:
        moved += 2 * g
    return moved


def _stored_as(column: Column) -> str:
    kind = column.kind if column.dtype in (None, torch.int8) else f"{column.kind} {_name(column.dtype)}"
    return f"{column.name or 'weight'} {kind}"


def _elements(part: Part) -> int:
    return sum(p.numel() for p in part.params)


def _state_dtypes(spec: UpdateSpec, group: Group, part: Part) -> list[torch.dtype]:
    states = map(part.states[0].get, spec.state_names)
    lazy = spec.lazy_dtype(group, part.params[0], part.grads[0])
    return [lazy if state is None else state.dtype for state in states]


def _detours(params: list[Tensor], grads: list[Tensor], clip: Clip | None) -> list[str]:
    walkable = [is_walkable(p, unit_limits(clip) is not None) for p in params]
    copied = [not (same_layout(g, p) and has_real_storage(g)) for p, g, fits in zip(params, grads, walkable) if fits]
    found = []
    if not all(walkable):
        found.append(f"strided views through dense stand-ins: {walkable.count(False)}")
    if any(copied):
        found.append(f"gradients copied into the parameter's layout: {copied.count(True)}")
    return found


def _idle(route: str, reason: str, found: list[tuple[int, Tensor]]) -> BatchReport:
    params = [p for _, p in found]
    dtypes = ", ".join(dict.fromkeys(_name(p.dtype) for p in params))
    groups = tuple(dict.fromkeys(i for i, _ in found))
    elements = sum(p.numel() for p in params)
    return BatchReport(groups, len(params), elements, dtypes, str(params[0].device), route, reason, None, 0)


def _dtypes(spec: UpdateSpec, group: Group, part: Part) -> str:
    p, g = part.params[0].dtype, part.grads[0].dtype
    text = _name(p) + (f", gradients {_name(g)}" if g != p else "")
    others = dict.fromkeys(_name(dtype) for dtype in _state_dtypes(spec, group, part) if dtype != p)
    return text + (f", states {'/'.join(others)}" if others else "")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
