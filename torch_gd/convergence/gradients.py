"""What gradients and parameters say: each check is a function of recorded steps, with its thresholds beside it.

A layer is the set of parameters of one module, whose names agree up to the last dot.
"""

import math
import statistics
from collections.abc import Mapping, Sequence

import torch

from .statistics import StepStatistics
from .verdict import Verdict

VANISHED = 1e-5  # vanishing: share of the largest layer's gradient
EXPLODED = 100.0  # exploding: multiple of the weights
RECENT = 5  # number of recorded steps that a check looks at
DEAD_STEPS = 3  # dead: number of recorded steps without any gradient
DEAD_SHARE = 0.1  # dead: share of a weight's units
MOSTLY_DEAD = 0.5  # vanishing: with more dead units than this share, a layer's small gradient is for want of units


def by_layer(norms: Mapping[str, float], sizes: Mapping[str, int]) -> dict[str, float]:
    """Return the root mean square over each layer's elements, from the norms of its parameters."""
    squares: dict[str, float] = {}
    elements: dict[str, int] = {}
    for name, norm in norms.items():
        layer = name.rpartition(".")[0] or name
        squares[layer] = squares.get(layer, 0.0) + norm * norm
        elements[layer] = elements.get(layer, 0) + sizes[name]
    return {layer: math.sqrt(square / max(elements[layer], 1)) for layer, square in squares.items()}


def vanishing(records: Sequence[StepStatistics], sizes: Mapping[str, int]) -> Verdict | None:
    """Return a verdict on layers whose gradient is lost on its way back.

    The root mean square of a layer's gradient, as the median over the last five recorded steps, is below 1e-5 of the
    largest layer's. Layers are compared with each other, as Glorot & Bengio 2010 do, because near a minimum all
    gradients are small.

    A layer none or few of whose units have a gradient other than zero is not among them: its units, or those behind it,
    are dead, and `dead` reports it. What vanishes is small and not zero; only where it is too small for its dtype does
    it round to zero, and then layers nearer to the loss show it vanishing.
    """
    gradients = _recent(records, sizes)
    largest = max(gradients.values(), default=0.0)
    layers = {name: rms for name, rms in gradients.items() if 0 < rms < VANISHED * largest < math.inf}
    for weight, share in _dead_units(records[-RECENT:]).items():
        if share > MOSTLY_DEAD:
            layers.pop(weight.rpartition(".")[0] or weight, None)
    if not layers:
        return None
    smallest = min(layers, key=layers.__getitem__)
    message = (
        f"gradients vanish in {len(layers)} of {len(gradients)} layers, at worst in {smallest!r}: "
        f"{layers[smallest]:.1e} against {largest:.1e} in the largest"
    )
    return Verdict("vanishing gradients", message, {"layers": layers, "largest": largest})


def exploding(records: Sequence[StepStatistics], sizes: Mapping[str, int]) -> Verdict | None:
    """Return a verdict on layers whose gradient dwarfs the weights.

    The root mean square of a layer's gradient, as the median over the last five recorded steps, is above 100 times that
    of all weights, or not finite. A plain step at rate 0.01 would then be as long as the weights themselves.
    """
    if not records:
        return None
    weight = math.hypot(*records[-1].weight_norms.values()) / math.sqrt(max(sum(sizes.values()), 1))
    gradients = _recent(records, sizes)
    layers = {name: rms for name, rms in gradients.items() if not rms <= EXPLODED * weight}
    if not layers or not math.isfinite(weight):
        return None
    worst = max(layers, key=lambda name: layers[name] if math.isfinite(layers[name]) else math.inf)
    message = (
        f"gradients explode in {len(layers)} of {len(gradients)} layers, at worst in {worst!r}: "
        f"{layers[worst]:.1e} against weights of {weight:.1e}"
    )
    return Verdict("exploding gradients", message, {"layers": layers, "weights": weight})


def dead(records: Sequence[StepStatistics], sizes: Mapping[str, int], named: bool = True) -> Verdict | None:
    """Return a verdict on parameters that nothing moves any more.

    In each of the last five recorded steps, of which there must be three, a parameter had no gradient or one of zeros;
    or 10 % or more of the output units (rows) of a weight had a gradient of zeros. The rows of embeddings do not count,
    because a token that is not in the batch has no gradient.

    Args:
        records: the recorded steps.
        sizes: the number of elements of each parameter.
        named: whether a model has told which weights are embeddings. Default: True.
    """
    recent = records[-RECENT:]
    if len(recent) < DEAD_STEPS:
        return None
    whole = [name for name in recent[-1].weight_norms if not any(r.grad_norms.get(name, 0.0) for r in recent)]
    units = {name: share for name, share in _dead_units(recent).items() if name not in whole and share >= DEAD_SHARE}
    if not whole and not units:
        return None
    died = {name: step for name in whole if (step := _last_alive(records, name)) is not None}
    unused = [name for name in whole if name not in died]
    parts = []
    if died:
        names = ", ".join(map(repr, died))
        parts.append(f"no gradient has reached {names} since step {max(died.values())}: a rate that is too large kills")
    if unused:
        parts.append(f"no gradient reaches {', '.join(map(repr, unused))}, and none has in any recorded step")
    parts += [f"{share:.0%} of the units of {name!r} are dead" for name, share in units.items()]
    if units and not named:
        parts.append("a unit may be a token that is in no batch, if a weight is an embedding's: pass model=")
    return Verdict("dead parameters", "; ".join(parts), {"parameters": whole, "units": units, "died": died})


def _dead_units(records: Sequence[StepStatistics]) -> dict[str, float]:
    """Return by weight the share of its units whose gradient was zero in every one of the records."""
    shares: dict[str, float] = {}
    for name in records[-1].dead_units if records else ():
        if all(name in record.dead_units for record in records):
            rows = torch.stack([record.dead_units[name] for record in records]).all(0)
            shares[name] = rows.double().mean().item() if len(rows) > 0 else 0.0
    return shares


def _last_alive(records: Sequence[StepStatistics], name: str) -> int | None:
    """Return the last recorded step in which a parameter had a gradient other than zero."""
    return next((record.step for record in reversed(records) if record.grad_norms.get(name, 0.0) != 0), None)


def moved(records: Sequence[StepStatistics], steps: int) -> float:
    """Return how far so many steps have moved the weights, as a share of their norm, if every step were recorded.

    The norms of the updates are added, so the weights have come so far at most. Infinite where nothing says so.
    """
    ratios = [record.update_ratio for record in records]
    if not ratios or not all(map(math.isfinite, ratios)):
        return math.inf
    return statistics.fmean(ratios) * steps


def not_finite(records: Sequence[StepStatistics]) -> Verdict | None:
    """Return a verdict on parameters that held infinity or NaN before the last recorded step, or after it."""
    if not records:
        return None
    last = records[-1]
    names = [
        name
        for name, norm in last.weight_norms.items()
        if not (math.isfinite(norm) and math.isfinite(last.update_norms[name]))
    ]
    if not names:
        return None
    message = (
        f"{len(names)} of {len(last.weight_norms)} parameters are not finite at step {last.step}, first {names[0]!r}"
    )
    return Verdict("non-finite parameters", message, {"parameters": names, "step": last.step})


def _recent(records: Sequence[StepStatistics], sizes: Mapping[str, int]) -> dict[str, float]:
    """Return each layer's root-mean-square gradient, as the median over the last recorded steps."""
    layers: dict[str, list[float]] = {}
    for record in records[-RECENT:]:
        for layer, rms in by_layer(record.grad_norms, sizes).items():
            layers.setdefault(layer, []).append(rms if math.isfinite(rms) else math.inf)
    return {layer: statistics.median(values) for layer, values in layers.items()}
