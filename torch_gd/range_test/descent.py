"""The descent of a noisy curve: where it begins, where it ends, and whether it is more than noise."""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

HALF_WIDTH = 0.05  # of a centred mean, as a share of the curve
SHORTEST = 5  # points up to the bottom; fewer say nothing, nor does the first tenth of the curve
# A fit counts as a descent if noise alone gives as good a one with a probability below this. It is small because the
# best start and bottom have been chosen: of 384 sweeps with nothing to find (random targets, or rates without effect),
# 3 passed.
MAX_CHANCE = 0.005


class Descent(NamedTuple):
    """The indices between which a curve falls, and how probable such a fall is where there is none."""

    start: int
    bottom: int
    chance: float


def centred_means(values: Sequence[float]) -> list[float]:
    """Return the mean around each value: unlike a moving average, it does not lag behind."""
    half = half_width(len(values))
    sums = [0.0, *accumulate(values)]
    bounds = [(max(i - half, 0), min(i + half + 1, len(values))) for i in range(len(values))]
    return [(sums[b] - sums[a]) / (b - a) for a, b in bounds]


def half_width(count: int) -> int:
    """Return how many neighbours on each side a centred mean takes."""
    return max(1, round(HALF_WIDTH * count))


def descent(values: Sequence[float]) -> Descent:
    r"""Fit a curve that is level and then falls along a straight line to where the centred mean is lowest.

    All losses up to the lowest point decide, so that no single one does. Against a constant, the fit leaves the share
    $r$ of the squares. For $n$ values with normal noise alone, the F test with 2 and $n - 3$ degrees of freedom says
    that so small a share has probability $r^{(n - 3) / 2}$.
    """
    means = centred_means(values)
    bottom = means.index(min(means))
    y = values[: bottom + 1]
    n = len(y)
    level = math.fsum(y) / n
    squares = math.fsum((value - level) ** 2 for value in y)
    best, start = 0.0, 0
    products, tail = 0.0, 0.0  # sums of (i - a) y[i] and of y[i], for i above a
    for a in range(n - 2, -1, -1):
        k = n - 1 - a
        tail += y[a + 1] - level
        products += tail
        times, times_squared = k * (k + 1) / 2, k * (k + 1) * (2 * k + 1) / 6
        explained = products**2 / (times_squared - times**2 / n)
        if products < 0 and explained > best and k > 1:  # a lone point is no descent
            best, start = explained, a
    if bottom < max(SHORTEST, len(values) // 10) or squares == 0:
        return Descent(start, bottom, 1.0)
    return Descent(start, bottom, max(1 - best / squares, 0.0) ** ((n - 3) / 2))
