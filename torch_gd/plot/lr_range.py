"""The curve of a learning-rate range test, with its suggestions."""

from os import PathLike
from typing import TYPE_CHECKING

from .figure import COLOURS, new_figure, save

if TYPE_CHECKING:
    from ..range_test import LRRangeTest

LABELS = {"steepest": "steepest descent", "tenth_of_minimum": "a tenth of the minimum's", "valley": "valley"}


def draw(result: "LRRangeTest", path: str | PathLike[str]) -> None:
    """Draws loss by learning rate to a file."""
    figure = new_figure(7.5, 4.5)
    axes = figure.subplots()
    axes.plot(result.lrs, result.losses, color="0.8", linewidth=1, label="loss of a mini-batch")
    axes.plot(result.lrs, result.smoothed, color=COLOURS[0], linewidth=2, label="smoothed")
    for (name, lr), colour, style in zip(result.suggestions.items(), COLOURS[1:], ("-", "--", ":")):
        axes.axvline(lr, color=colour, linestyle=style, label=f"{LABELS[name]}: {lr:.2g}")
    axes.set_xscale("log")
    low, high = min(result.losses), max(result.smoothed)
    margin = 0.08 * (high - low) or 1.0
    axes.set_ylim(low - margin, high + margin)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    axes.set_title("Learning-rate range test" + (", until the loss diverged" if result.diverged else ""))
    axes.legend(fontsize=9)
    save(figure, path)
