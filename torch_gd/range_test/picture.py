"""The picture of a learning-rate range test: the curve, with its suggestions."""

from collections.abc import Mapping, Sequence
from os import PathLike

LABELS = {"steepest": "steepest descent", "tenth_of_minimum": "a tenth of the minimum's", "valley": "valley"}


def draw(
    path: str | PathLike[str],
    lrs: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    suggestions: Mapping[str, float],
    diverged: bool,
) -> None:
    """Draw losses by learning rate to a file, whose ending says the format.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    from ..plot.figure import COLOURS, new_figure, save  # only who draws needs it

    figure = new_figure(7.5, 4.5)
    axes = figure.subplots()
    axes.plot(lrs, losses, color="0.8", linewidth=1, label="loss of a mini-batch")
    axes.plot(lrs, smoothed, color=COLOURS[0], linewidth=2, label="smoothed")
    for (name, lr), colour, style in zip(suggestions.items(), COLOURS[1:], ("-", "--", ":")):
        axes.axvline(lr, color=colour, linestyle=style, label=f"{LABELS[name]}: {lr:.2g}")
    axes.set_xscale("log")
    low, high = min(losses), max(smoothed)
    margin = 0.08 * (high - low) or 1.0
    axes.set_ylim(low - margin, high + margin)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    axes.set_title("Learning-rate range test" + (", until the loss diverged" if diverged else ""))
    axes.legend(fontsize=9)
    save(figure, path)
