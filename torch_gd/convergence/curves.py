"""What the losses say: each criterion a function of curves, with its thresholds beside it.

Losses are those of steps or of epochs, whichever was recorded; no criterion needs to know. At most one of the four
about the training loss holds, in the order of `training`.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .verdict import Verdict

SHORTEST = 20  # losses: with fewer, only one that is not finite says anything

LOST = 0.5  # diverging: this share of what had been gained is gone
PURE = 0.5  # oscillating: this share of the variance is in one narrow band of frequencies
CYCLES = 3  # oscillating: full periods in sight
IN_SIGHT = 40  # oscillating: losses; of 4,000 windows of white noise 0.6 % of 40 pass for it, 0.05 % of 50, 5 % of 30
STRAIGHT = 0.5  # crawling: the later fall is at least this share of the earlier one
SMALL = 0.1  # crawling: the whole fall is less than this share of the loss
FLAT = 0.01  # plateau: the fall from one quarter to the next is less than this share of the whole fall
RISEN = 0.05  # over-fitting: validation loss above its lowest, as a share of it
PATIENCE = 3  # over-fitting: validations in a row that are


def training(losses: Sequence[float], window: int = 50) -> Verdict | None:
    """The verdict on a training loss: diverging, oscillating, crawling, plateau, or None while it falls well.

    Args:
        losses: one a step, or one an epoch.
        window: how many losses are averaged, and searched for an oscillation, at most. Default: 50.
    """
    if len(losses) > 0 and not math.isfinite(losses[-1]):
        return Verdict("diverging", f"the loss is {losses[-1]}", {"last": losses[-1]})
    x = torch.tensor(losses, dtype=torch.float64, device="cpu")
    x = x[x.isfinite()]
    if len(x) < SHORTEST:
        return None
    return diverging(x, window) or oscillating(x, window) or crawling(x) or plateau(x, window)


def diverging(x: Tensor, window: int = 50) -> Verdict | None:
    """The loss has lost half of what it had gained.

    The mean of the last window lies above the lowest window's by more than half of what lies between the first window
    and the lowest, by more than three standard deviations within the lowest, and by more than 0.1 % of it. A loss that
    never fell diverges by rising. A loss that is not finite diverges at once. A window is a quarter of the run at most.
    """
    w = min(window, len(x) // 4)
    windows = x[len(x) % w :].reshape(-1, w)
    means = windows.mean(1)
    lowest = int(means.argmin())
    first, best, last = x[:w].mean().item(), means[lowest].item(), means[-1].item()
    noise = 3 * windows[lowest].std().item()
    if last - best <= max(LOST * (first - best), noise, 1e-3 * abs(best)):
        return None
    message = f"the loss rose from {best:.4g} to {last:.4g}, having begun at {first:.4g}: lower the learning rate"
    return Verdict("diverging", message, {"first": first, "best": best, "last": last})


def oscillating(x: Tensor, window: int = 50) -> Verdict | None:
    """The loss goes up and down with a period: the rate is too large for the steepest direction.

    Of the last window (half of the run at most), freed from its trend (a parabola), half of the variance or more is in
    one frequency and its two neighbours, as a share of the periodogram (Fisher 1929, Tests of significance in harmonic
    analysis), with three full periods or more in sight; and the swing is larger than the fall over the window, and than
    1 % of the whole range that the loss has covered.
    Noise of mini-batches has no period. An epoch has one where the data are not shuffled.
    """
    k = min(window, len(x) // 2)
    if k < IN_SIGHT:
        return None
    y = x[-k:]
    t = torch.linspace(-1, 1, k, dtype=torch.float64, device="cpu")
    basis = torch.stack([torch.ones_like(t), t, t**2], 1)
    fit = torch.linalg.lstsq(basis, y[:, None]).solution[:, 0]
    residual = y - basis @ fit
    power = torch.fft.rfft(residual).abs().square()
    if k % 2 == 0:
        power[-1] /= 2  # the highest frequency stands once in the spectrum, the others twice
    peak = CYCLES + int(power[CYCLES:].argmax())
    share = (power[peak - 1 : peak + 2].sum() / power.sum()).item() if power.sum() > 0 else 0.0
    swing = (residual.max() - residual.min()).item()
    fall = -2 * fit[1].item()
    if share < PURE or swing <= max(abs(fall), 0.01 * (x.max() - x.min()).item()):
        return None
    period = k / peak
    message = (
        f"the loss swings by {swing:.4g} every {period:.3g} records, while it falls by {fall:.4g} in {k}: "
        "lower the learning rate or the momentum"
    )
    return Verdict("oscillating", message, {"swing": swing, "period": period, "fall": fall, "share": share})


def crawling(x: Tensor) -> Verdict | None:
    """The loss falls along a straight line, and has hardly fallen: the rate is too small.

    Of the run's thirds: the fall is significant (three standard errors from the first to the last), does not slow down
    (the later fall is half of the earlier one or more), and is less than 10 % of the first third's loss in all. A curve
    bends once steps are long enough to change the gradient; while it does not, they could be longer.
    """
    a, b, c = (third for third in x[len(x) % 3 :].reshape(3, -1))
    fall, later = (a.mean() - c.mean()).item(), (b.mean() - c.mean()).item()
    level = a.mean().item()
    if not _standard_error(a, c) * 3 < fall < SMALL * abs(level) or later < STRAIGHT * (fall - later):
        return None
    message = f"the loss falls along a straight line, by {fall / abs(level):.2%} so far: raise the learning rate"
    return Verdict("crawling", message, {"level": level, "fall": fall})


def plateau(x: Tensor, window: int = 50) -> Verdict | None:
    """The second half of the run brought nothing: converged, or stuck.

    The mean of the last quarter lies below that of the quarter before by less than 1 % of the whole fall (from the
    first window's mean), or by less than two standard errors.
    """
    q = len(x) // 4
    before, last = x[-2 * q : -q], x[-q:]
    fall = (before.mean() - last.mean()).item()
    whole = (x[: min(window, q)].mean() - last.mean()).item()
    if fall > max(FLAT * whole, 2 * _standard_error(before, last)):
        return None
    message = f"the loss stays at {last.mean().item():.4g}, and fell by {fall:.2g} in the last half of the run"
    return Verdict("plateau", message, {"level": last.mean().item(), "fall": fall, "whole": whole})


def overfitting(train: Sequence[float], validation: Sequence[float]) -> Verdict | None:
    """The validation loss rises while the training loss falls.

    The last three validation losses each lie more than 5 % above the lowest (the generalisation loss of Prechelt 1998,
    Early Stopping - But When?, against noise three times over), and the training loss is lower than it was there.

    Args:
        train: training loss at each validation.
        validation: the validation losses.
    """
    points = [(t, v) for t, v in zip(train, validation) if math.isfinite(t) and math.isfinite(v)]
    if len(points) <= PATIENCE:
        return None
    best = min(range(len(points)), key=lambda i: points[i][1])
    (train_then, lowest), (train_now, latest) = points[best], points[-1]
    risen = all(v > lowest + RISEN * abs(lowest) for _, v in points[-PATIENCE:])
    if not risen or train_now >= train_then:
        return None
    message = (
        f"validation loss rose from {lowest:.4g} to {latest:.4g} since validation {best + 1} of {len(points)}, "
        f"while training loss fell from {train_then:.4g} to {train_now:.4g}"
    )
    data = {
        "best": best,
        "lowest": lowest,
        "latest": latest,
        "gap": latest - train_now,
        "gap_then": lowest - train_then,
    }
    return Verdict("over-fitting", message, data)


def _standard_error(a: Tensor, b: Tensor) -> float:
    """Of the difference of two means."""
    return math.sqrt((a.var() / len(a) + b.var() / len(b)).item())
