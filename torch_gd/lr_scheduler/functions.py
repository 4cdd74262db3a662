"""The shapes of learning-rate schedules: closed-form functions from a step to a factor on the base learning rate.

`step` counts from 0, `steps` is the length of the piece, and a factor of 1 is the base learning rate. Past its end
each function returns its last value.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

WARMUPS = ("linear", "cosine", "exponential", "constant", "1-sqrt")
TAILS = ("linear", "cosine", "1-sqrt", "sqrt")


def warmup(step: float, steps: float, kind: str = "linear", start: float = 0.0) -> float:
    """Return a factor that climbs from `start` at step 0 to 1 at `steps`; "constant" stays at `start` until then."""
    if step >= steps:
        return 1.0
    progress = step / steps
    if kind == "constant":
        return start
    if kind == "exponential":
        return float(start ** (1 - progress))
    if kind == "cosine":
        progress = 0.5 * (1 - math.cos(math.pi * progress))
    elif kind == "1-sqrt":
        progress = 1 - math.sqrt(1 - progress)
    return progress * (1 - start) + start


def constant(step: float) -> float:
    """Return 1, whatever the step."""
    return 1.0


def linear(step: float, steps: float, floor: float = 0.0) -> float:
    """Return a straight line from 1 to `floor`; 1 if the warm-up has left no steps for it."""
    return _above(floor, max(0.0, (steps - step) / max(1, steps)) if steps else 1.0)


def cosine(step: float, steps: float, floor: float = 0.0, cycles: float = 0.5) -> float:
    """Return a cosine from 1 to `floor` (Loshchilov & Hutter 2017); half a wave, or as many as `cycles` says."""
    progress = min(step / max(1, steps), 1.0)
    return _above(floor, 0.5 * (1 + math.cos(math.pi * cycles * 2 * progress)))


def cosine_restarts(
    step: int,
    first_cycle: int,
    cycle_mult: int = 1,
    peak_decay: float = 1.0,
    floor: float = 0.0,
    steps: int | None = None,
) -> float:
    """Return cosine cycles from a peak to `floor`.

    Each cycle is `cycle_mult` times as long as the one before, and `peak_decay` times as high above `floor`. A cycle
    that ends at `steps` stays at `floor`, so that a run does not end with a restart.
    """
    cycle, length, ends = 0, first_cycle, step == steps
    if cycle_mult == 1 and step > length:
        cycle = (step - 1) // length
        step -= cycle * length
    while step > length or (step == length and not ends):
        step -= length
        length *= cycle_mult
        cycle += 1
    return _above(floor, peak_decay**cycle * 0.5 * (1 + math.cos(math.pi * step / length)))


def cosine_hard_restarts(step: float, steps: float, cycles: float = 1) -> float:
    """Return `cycles` cosine cycles of equal length, each from 1 to 0."""
    progress = step / max(1, steps)
    return 0.0 if progress >= 1 else 0.5 * (1 + math.cos(math.pi * (cycles * progress % 1)))


def polynomial(step: float, steps: float, power: float = 1.0, floor: float = 0.0) -> float:
    """Return a power of what is left of the way, scaled to go from 1 to `floor`."""
    return _above(floor, max(0.0, 1 - step / max(1, steps)) ** power)


def exponential(step: int, gamma: float) -> float:
    """Return `gamma` to the power of the step."""
    return float(gamma**step)


def stairs(step: int, step_size: int, gamma: float = 0.1) -> float:
    """Return a factor that is multiplied by `gamma` after each `step_size` steps."""
    return float(gamma ** (step // step_size))


def multi_step(step: int, milestones: Sequence[int], gamma: float = 0.1) -> float:
    """Return a factor that is multiplied by `gamma` at each milestone."""
    return float(gamma ** bisect_right(milestones, step))


def inverse_sqrt(step: float, timescale: float) -> float:
    """Return 1 / √(1 + step / timescale); after `timescale` steps of warm-up this is Vaswani et al. 2017."""
    return 1.0 / math.sqrt((step + timescale) / timescale)


def stable_decay(
    step: float, stable_steps: float, decay_steps: float, tail: str = "1-sqrt", floor: float = 0.0, cycles: float = 0.5
) -> float:
    """Return 1 for `stable_steps`, then a decay of `decay_steps` to `floor` (Hu et al. 2024; Hägele et al. 2024)."""
    if step < stable_steps or stable_steps + decay_steps == 0:  # nothing, where the warm-up is the whole run
        return 1.0
    if step >= stable_steps + decay_steps:
        return floor
    progress = (step - stable_steps) / decay_steps
    if tail == "linear":
        height = 1 - progress
    elif tail == "cosine":
        height = 0.5 * (1 + math.cos(math.pi * cycles * 2 * progress))
    elif tail == "1-sqrt":
        height = 1 - math.sqrt(progress)
    else:
        height = math.sqrt(1 - progress)
    return _above(floor, height)


def one_cycle(
    step: int,
    steps: int,
    start: float,
    peak: float,
    end: float,
    peak_at: float = 0.3,
    three_phase: bool = False,
    anneal: str = "cos",
) -> float:
    """Return one cycle from `start` up to `peak` and down to `end` (Smith & Topin 2018).

    With `three_phase` the way down passes `start`. The peak is at the fraction `peak_at` of the way, and the last of
    the `steps` values is at `steps - 1`. A cycle of no steps, after a warm-up that is the whole run, stays at its
    start.
    """
    if steps == 0:
        return start
    top = peak_at * steps - 1
    turns = [(0.0, start), (top, peak)]
    if three_phase:
        turns.append((2 * peak_at * steps - 2, start))
    turns.append((steps - 1, end))
    for (begin, low), (stop, high) in pairwise(turns):
        if step <= stop and stop > begin:
            progress = (step - begin) / (stop - begin)
            if anneal == "linear":
                return (high - low) * progress + low
            return high + (low - high) / 2.0 * (math.cos(math.pi * progress) + 1)
    return end


def _above(floor: float, height: float) -> float:
    """Return a height in [0, 1], scaled to go from `floor` to 1."""
    return height * (1 - floor) + floor
