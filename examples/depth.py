"""A plain network of 20 layers, whose gradients vanish or explode, and four cures.

    python examples/depth.py            # prints a table, writes depth.csv and draws depth.png

Each layer scales activations and gradients by about the same factor; 20 layers scale them by its 20th power.
Initialisation (Xavier, He) makes the factor 1, normalisation and residual connections keep it near 1, and clipping
bounds the step where it is larger.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

import torch
import torch.nn.functional as F
from argument_types import output_file, output_picture, positive
from torch import Tensor, nn
from train_digits import load

import torch_gd
from torch_gd.convergence import Monitor
from torch_gd.convergence.gradients import by_layer
from torch_gd.convergence.logs import CSVWriter
from torch_gd.plot.__main__ import main as plot

DEPTH, WIDTH, BATCH = 20, 32, 64
Initialise = Callable[[Tensor], Tensor]


def scaled(gain: float) -> Initialise:
    """Return what draws normal weights that scale by about `gain` before tanh, by `gain` / sqrt(2) before ReLU."""
    return lambda weight: nn.init.normal_(weight, std=gain / math.sqrt(weight.shape[1]))


class Network(NamedTuple):
    """How a network is built and trained."""

    activation: type[nn.Module]
    initialise: Initialise
    normalise: bool = False
    residual: bool = False
    clip: float = math.inf
    lr: float = 0.01


# The first network of each activation fails at every learning rate of 0.001, 0.003, 0.01 and 0.03; each of the others
# has the best of these.
NETWORKS = {
    "tanh, small weights": Network(nn.Tanh, scaled(0.5)),
    "tanh, Xavier": Network(nn.Tanh, nn.init.xavier_normal_),
    "tanh, normalised": Network(nn.Tanh, scaled(0.5), normalise=True, lr=0.003),
    "tanh, residual": Network(nn.Tanh, scaled(0.5), residual=True),
    "ReLU, large weights": Network(nn.ReLU, scaled(2.0)),
    "ReLU, He": Network(nn.ReLU, nn.init.kaiming_normal_),
    "ReLU, normalised": Network(nn.ReLU, scaled(2.0), normalise=True),
    "ReLU, clipped": Network(nn.ReLU, scaled(2.0), clip=0.5, lr=0.03),
}


class Block(nn.Module):
    """A layer: x → activation(norm(W x + b)), plus x if it is residual."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        network.initialise(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.norm = nn.LayerNorm(WIDTH) if network.normalise else nn.Identity()
        self.activation = network.activation()
        self.residual = network.residual

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(self.norm(self.linear(x)))
        return x + y if self.residual else y


class Result(NamedTuple):
    """What a training showed."""

    first: float  # root-mean-square gradient of the first hidden layer at the first step
    last: float  # the same of the last hidden layer
    loss: float  # at the last step
    verdicts: list[str]  # the monitor's


def train(name: str, network: Network, steps: int, writer: CSVWriter) -> Result:
    """Train a network, until its loss is not finite, and log losses and gradients."""
    torch.manual_seed(0)
    data = load()
    blocks = [Block(network) for _ in range(DEPTH)]
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, WIDTH), *blocks, nn.Linear(WIDTH, 10))
    optimizer = torch_gd.NAG(model.parameters(), lr=network.lr)
    monitor = Monitor(optimizer, model, every=5)

    def batches() -> Iterator[Tensor]:
        while True:
            yield from torch.randperm(len(data.labels)).split(BATCH)

    for step, batch in enumerate(islice(batches(), steps), start=1):
        loss = F.cross_entropy(model(data.images[batch]), data.labels[batch])
        monitor.train_loss(loss)
        writer.add_scalar(f"{name}/loss", loss, step)
        if not loss.isfinite():
            break
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), network.clip)
        optimizer.step()

    sizes = {key: p.numel() for key, p in model.named_parameters()}
    layers = by_layer(monitor.statistics[0].grad_norms, sizes)
    gradients = [rms for layer, rms in layers.items() if layer.endswith("linear")]
    for layer, rms in enumerate(gradients, start=1):
        writer.add_scalar(f"{name}/gradient", rms, layer)
    return Result(gradients[0], gradients[-1], loss.item(), [v.name for v in monitor.verdicts()])


def main() -> None:
    """Train all networks, print the table and draw the picture."""
    parser = argparse.ArgumentParser(
        description="Vanishing and exploding gradients in a deep network, and their cures."
    )
    shown = "default: %(default)s"
    parser.add_argument("--steps", type=positive, default=200, help=shown)
    parser.add_argument("--log", type=output_file, metavar="PATH", default="depth.csv", help=shown)
    parser.add_argument("--plot", type=output_picture, metavar="PATH", default="depth.png", help=shown)
    args = parser.parse_args()

    torch.set_num_threads(1)  # a second thread gains nothing for layers this small
    print(f"{'':19} {'first layer':>11} {'last layer':>11} {'loss':>9}  verdicts")
    with CSVWriter(args.log) as writer:
        for name, network in NETWORKS.items():
            r = train(name, network, args.steps, writer)
            verdicts = ", ".join(r.verdicts) or "nothing wrong was found"
            print(f"{name:19} {r.first:11.1e} {r.last:11.1e} {r.loss:9.4f}  {verdicts}")
    plot(["depth", "--log", args.log, "--out", args.plot])


if __name__ == "__main__":
    main()
