"""Training and validation loss without and with each remedy, from the log of examples/overfitting.py."""

import argparse

from .figure import COLOURS, new_figure, save
from .from_log import add_log_argument, read

COMMAND, HELP = "overfitting", "losses with and without each remedy, from the log of examples/overfitting.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this picture."""
    add_log_argument(parser, "overfitting")


def draw(arguments: argparse.Namespace) -> None:
    """Draw a panel for each run to `arguments.out`."""
    runs = read(arguments.log, "train", "validation", together=True)
    figure = new_figure(11, 6.5)
    columns = 3
    grid = figure.subplots(-(-len(runs) // columns), columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(runs) :]:
        axes.set_axis_off()
    plain = next(iter(runs.values()))
    for axes, (name, run) in zip(grid.flat, runs.items()):
        if run is not plain:
            axes.plot(*plain["validation"], color="0.7", linestyle="--", label="validation, no remedy")
        axes.plot(*run["validation"], color=COLOURS[1], label="validation")
        axes.plot(*run["train"], color=COLOURS[0], label="training")
        gap = run["validation"][1][-1] - run["train"][1][-1]
        axes.plot(run["train"][0][-1:] * 2, [run["train"][1][-1], run["validation"][1][-1]], "k_-", linewidth=0.8)
        axes.set_title(f"{name}: a gap of {gap:.2f}")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.supxlabel("epoch")
    figure.supylabel("loss")
    save(figure, arguments.out)
