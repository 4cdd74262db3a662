"""What the losses say: each check is a function of loss curves, with its thresholds beside it.

The losses may be those of steps or of epochs; no check needs to know. At most one of the four checks on the training
loss gives a verdict, in the order of `training`.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .divergence import has_risen, not_finite
from .verdict import Verdict

SHORTEST = 20  # number of losses; with fewer, the only verdict is on a loss that is not finite

LOST = 0.5  # diverging: this share of the loss's whole fall is lost again
PURE = 0.5  # oscillating: this share of the variance is in one narrow band of frequencies
CYCLES = 3  # oscillating: number of full periods in the window
# Oscillating: number of losses in the window. Of 4,000 windows of white noise, 5 % are taken for an oscillation with 30
# losses, 0.6 % with 40 and 0.05 % with 50.
IN_SIGHT = 40
STRAIGHT = 0.5  # crawling: the later fall is at least this share of the earlier one
SMALL = 0.1  # crawling: the whole fall is less than this share of the loss
STILL = 0.05  # plateau: the last two quarters differ by less than this share of the loss, ...
FLAT = 0.01  # ... and by less than this share of the whole fall, where there is one
UNMOVED = 0.01  # a rate that is too small: all steps together have moved the weights by less than this share of them
RISEN = 0.05  # over-fitting: validation loss above its lowest, as a share of it
PATIENCE = 3  # over-fitting: number of validations in a row with such a loss


def training(losses: Sequence[float], window: int = 50, moved: float = math.inf) -> Verdict | None:
    """Return the verdict on a training loss: diverging, oscillating, crawling or plateau; None without evidence.

    Args:
        losses: one for each step, or one for each epoch.
        window: at most this many losses are averaged, and searched for an oscillation. Default: 50.
        moved: how far all steps have moved the weights, as a share of them; infinite if unknown, the default.
    """
    if len(losses) > 0 and (message := not_finite("the loss", losses[-1])):
        return Verdict("diverging", message, {"last": losses[-1]})
    x = torch.tensor(losses, dtype=torch.float64, device="cpu")
    x = x[x.isfinite()]
    if len(x) < SHORTEST:
        return None
    return diverging(x, window) or oscillating(x, window) or crawling(x) or plateau(x, window, moved)


def diverging(x: Tensor, window: int = 50) -> Verdict | None:
    """Return a verdict if the loss has risen again by half of its fall.

    The losses are averaged over windows, each a quarter of the run at most. The mean of the last window must lie above
    the mean of the lowest one by more than half of the fall from the first window to the lowest, by more than three
    standard deviations within the lowest, and by more than 0.1 % of its mean. A loss that never fell diverges as soon
    as it rises.
    """
    w = min(window, len(x) // 4)
    windows = x[len(x) % w :].reshape(-1, w)
    means = windows.mean(1)
    lowest = int(means.argmin())
    first, best, last = x[:w].mean().item(), means[lowest].item(), means[-1].item()
    noise = 3 * windows[lowest].std().item()
    if not has_risen(last, best, by=max(LOST * (first - best), noise, 1e-3 * abs(best))):
        return None
    message = f"the loss rose from {best:.4g} to {last:.4g}, having begun at {first:.4g}: lower the learning rate"
    return Verdict("diverging", message, {"first": first, "best": best, "last": last})


def oscillating(x: Tensor, window: int = 50) -> Verdict | None:
    """Return a verdict if the loss goes up and down with a period, as it does at a rate that is too large.

    The check looks at the last window, half of the run at most, from which a parabola is subtracted as its trend. Half
    of the variance or more must lie in one frequency and its two neighbours, as a share of the periodogram (Fisher
    1929, Tests of significance in harmonic analysis), with three full periods or more in the window. The swing must be
    larger than the fall over the window, and larger than 1 % of the range of all losses.

    The noise of mini-batches has no period. Data that are not shuffled have the period of an epoch.
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
        power[-1] /= 2  # the spectrum has the highest frequency once, and the others twice
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
    """Return a verdict if the loss falls along a straight line and has hardly fallen: the rate is too small.

    The check compares the means of the run's thirds. The fall from the first to the last must be more than three
    standard errors and less than 10 % of the first third's loss, and its later half must be half of its earlier one or
    more. A curve bends once steps are long enough to change the gradient; while it does not, they could be longer.
    """
    a, b, c = (third for third in x[len(x) % 3 :].reshape(3, -1))
    fall, later = (a.mean() - c.mean()).item(), (b.mean() - c.mean()).item()
    level = a.mean().item()
    if not _standard_error(a, c) * 3 < fall < SMALL * abs(level) or later < STRAIGHT * (fall - later):
        return None
    message = f"the loss falls along a straight line, by {fall / abs(level):.2%} so far: raise the learning rate"
    return Verdict("crawling", message, {"level": level, "fall": fall})


def plateau(x: Tensor, window: int = 50, moved: float = math.inf) -> Verdict | None:
    """Return a verdict if the loss has stood still over the last half of the run: it has converged, or is stuck.

    The means of the last two quarters of the run differ by less than 5 % of the loss, and by less than 1 % of its fall
    from the first window on if it has fallen at all, by more than three standard errors. Two standard errors are added
    to the difference, so that noise which could hide a fall is no evidence of a plateau, and gives no verdict.

    A loss that has never fallen stands still at a rate that is too small, too. The two are told apart by `moved`: below
    1 %, the verdict is that the run crawls.
    """
    q = len(x) // 4
    start, before, last = x[: min(window, q)], x[-2 * q : -q], x[-q:]
    level, whole = last.mean().item(), (start.mean() - last.mean()).item()
    fall = (before.mean() - last.mean()).item()
    doubt = 2 * _standard_error(before, last)
    fell = whole > 3 * last.std().item() * math.sqrt(1 / len(start) + 1 / q)  # had it not, the noise would be the same
    if abs(fall) + doubt > min(STILL * abs(level), FLAT * whole if fell else math.inf):
        return None
    data = {"level": level, "fall": fall, "doubt": doubt, "whole": whole}
    if fell:
        message = f"the loss stays at {level:.4g}: it fell by {fall:.2g} ± {doubt:.1g} in the last half of the run"
        return Verdict("plateau", message, data)
    if moved < UNMOVED:
        message = (
            f"the loss has stayed at {level:.4g}, and the weights have moved by {moved:.1e} of their size in all: "
            "raise the learning rate, unless the run began at a minimum"
        )
        return Verdict("crawling", message, data | {"moved": moved})
    why = "it is stuck, or began at a minimum" if moved < math.inf else "stuck, at a minimum, or the rate is too small"
    apart = "" if moved < math.inf else "; losses alone do not say which: give the monitor the optimizer"
    return Verdict("plateau", f"the loss has stayed at {level:.4g} from the beginning: {why}{apart}", data)


def overfitting(train: Sequence[float], validation: Sequence[float]) -> Verdict | None:
    """Return a verdict if the validation loss rises while the training loss falls.

    Each of the last three validation losses lies more than 5 % above the lowest one, and the training loss is lower
    than it was there. The 5 % are the generalisation loss of Prechelt 1998 (Early Stopping - But When?); it is asked
    for three times in a row because of noise.

    Args:
        train: the training loss at each validation.
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
    """Return the standard error of the difference of two means."""
    return math.sqrt((a.var() / len(a) + b.var() / len(b)).item())
