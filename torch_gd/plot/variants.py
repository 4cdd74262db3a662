"""Batch, mini-batch and stochastic gradient descent side by side, from the log of examples/batch_variants.py."""

import argparse

from .figure import COLOURS, new_figure, save
from .from_log import add_log_argument, read

COMMAND, HELP = "variants", "batch, mini-batch and stochastic descent, from the log of examples/batch_variants.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this picture."""
    add_log_argument(parser, "batch_variants")


def draw(arguments: argparse.Namespace) -> None:
    """Draw the loss against epochs, updates and seconds, and the gradient noise, to `arguments.out`."""
    figure = new_figure(11, 8)
    panels = figure.subplots(2, 2).flat
    axes = dict(zip(("epochs", "updates", "seconds", "noise"), panels))
    runs = read(arguments.log, "loss", "epoch", "seconds", "noise", together=True)
    for (name, run), colour in zip(runs.items(), COLOURS):
        updates, losses = run["loss"]
        for unit, x in (("epochs", run["epoch"][1]), ("updates", updates), ("seconds", run["seconds"][1])):
            axes[unit].plot(x, losses, ".-", markersize=4, linewidth=1.2, color=colour, label=name)
        axes["noise"].plot(updates, run["noise"][1], ".-", markersize=4, color=colour, label=name)
    for unit in ("epochs", "updates", "seconds"):
        axes[unit].set_yscale("log")
        axes[unit].set_xlabel(unit)
        axes[unit].set_ylabel("training loss, of all images")
    for unit, linear in (("epochs", 0.1), ("updates", 10), ("seconds", 0.01), ("noise", 10)):
        axes[unit].set_xscale("symlog", linthresh=linear)
    axes["noise"].set_yscale("symlog", linthresh=0.5)  # a batch of all images has no noise
    axes["noise"].set_xlabel("updates")
    axes["noise"].set_ylabel("gradient noise: |batch's - whole| / |whole|")
    for panel in axes.values():
        panel.set_xlim(left=0)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=9)
    save(figure, arguments.out)
