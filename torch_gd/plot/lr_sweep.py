"""The digits, trained at learning rates that are too small, well tuned and too large."""

import argparse
import math

from torch import nn
from torch.optim import Optimizer

import torch_gd

from . import digits
from .arguments import positive, seed
from .figure import COLOURS, new_figure, save

COMMAND, HELP = "lr-sweep", "train the digits at rates too small, well tuned and too large"

OPTIMIZERS = ("SGD", "NAG", "Adagrad", "RMSprop", "Adam", "AdamW")
TOO_SMALL, TOO_LARGE = 1 / 100, 30  # multiples of the well-tuned rate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this picture."""
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="SGD", help="whose rates; SGD has momentum 0.9")
    parser.add_argument("--epochs", type=positive, default=10, help="through the training part")
    parser.add_argument("--seed", type=seed, default=0, help="of the network")


def draw(arguments: argparse.Namespace) -> None:
    """Train three times, and draw the losses to `arguments.out`."""
    data = digits.load()
    model = digits.network(arguments.seed)
    tuned = torch_gd.lr_range_test(
        model, new_optimizer(arguments.optimizer, model, 1e-3), nn.functional.cross_entropy, data.loader()
    ).valley
    figure = new_figure(8, 5)
    axes = figure.subplots()
    rates = {"too small": tuned * TOO_SMALL, "well tuned": tuned, "too large": tuned * TOO_LARGE}
    for (name, lr), colour in zip(rates.items(), COLOURS):
        model = digits.network(arguments.seed)
        run = digits.train(data, model, new_optimizer(arguments.optimizer, model, lr), arguments.epochs)
        losses = [loss for loss in run.losses if math.isfinite(loss)]
        label = f"{name}: {lr:.2g}, {run.accuracy:.1f} % right on the test part"
        axes.plot(losses, color=colour, linewidth=1.2, label=label)
        if len(losses) < len(run.losses):
            axes.plot(len(losses) - 1, losses[-1], "x", color=colour, markersize=10)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("training loss of a mini-batch")
    axes.set_title(f"{arguments.optimizer} on handwritten digits: three learning rates")
    axes.axhline(math.log(10), color="0.5", linestyle=":", label="guessing")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    save(figure, arguments.out)


def new_optimizer(name: str, model: nn.Module, lr: float) -> Optimizer:
    """Return one of our optimizers by name; SGD has momentum."""
    options = {"momentum": 0.9} if name == "SGD" else {}
    optimizer: Optimizer = getattr(torch_gd, name)(model.parameters(), lr=lr, **options)
    return optimizer
