"""Batch, mini-batch and stochastic gradient descent on the same problem.

    python examples/batch_variants.py   # prints a table, writes batch_variants.csv, draws batch_variants.png

They differ in one number: how many images the gradient of an update is taken over. Per epoch the small batch learns
fastest, per update the large one; what one waits for is seconds. The noise is the distance of a batch's gradient from
the gradient over all images, divided by the latter's norm. It is the price of a small batch, which therefore needs a
smaller learning rate.
"""

import argparse
import time
from typing import NamedTuple

import torch
import torch.nn.functional as F
from argument_types import not_negative, output_file, output_picture
from torch import Tensor, nn
from train_digits import load

import torch_gd
from torch_gd.convergence.logs import CSVWriter
from torch_gd.plot.__main__ import main as plot


class Variant(NamedTuple):
    """A size of batch, and how to train with it."""

    batch_size: int
    lr: float  # chosen by hand: larger batches have less noise and allow larger steps
    epochs: int


IMAGES = 1437
VARIANTS = {
    "batch, 1,437": Variant(IMAGES, 1.0, 200),
    "mini-batch, 32": Variant(32, 0.3, 20),
    "stochastic, 1": Variant(1, 0.02, 3),
}
READINGS = 40  # how often the loss is read during a run
NOISE_BATCHES = 8  # how many batches the noise is averaged over


def gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of the mean loss as one vector."""
    loss = F.cross_entropy(model(images), labels)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def train(name: str, variant: Variant, share: float, writer: CSVWriter) -> tuple[float, int, float]:
    """Train for a share of the epochs; return the last loss, the number of updates and the seconds they took."""
    torch.manual_seed(0)
    data = load()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    optimizer = torch_gd.SGD(model.parameters(), lr=variant.lr)
    per_epoch = -(-IMAGES // variant.batch_size)
    updates = max(round(variant.epochs * share * per_epoch), 1)
    # The readings are closer together at first, where the loss changes most.
    readings = {round(updates * (i / READINGS) ** 2) for i in range(READINGS + 1)}

    seconds, batches = 0.0, iter(())
    for update in range(updates + 1):
        if update in readings:  # its time is not counted
            whole = gradient(model, data.images, data.labels)
            noise = 0.0
            for batch in torch.rand(NOISE_BATCHES, IMAGES).argsort(1)[:, : variant.batch_size]:
                noise += (gradient(model, data.images[batch], data.labels[batch]) - whole).norm().item()
            with torch.no_grad():
                loss = F.cross_entropy(model(data.images), data.labels).item()
            writer.add_scalar(f"{name}/loss", loss, update)
            writer.add_scalar(f"{name}/epoch", update / per_epoch, update)
            writer.add_scalar(f"{name}/seconds", seconds, update)
            writer.add_scalar(f"{name}/noise", noise / NOISE_BATCHES / whole.norm().item(), update)
        if update == updates:
            break
        start = time.perf_counter()
        if update % per_epoch == 0:
            batches = iter(torch.randperm(IMAGES).split(variant.batch_size))
        batch = next(batches)
        optimizer.zero_grad()
        F.cross_entropy(model(data.images[batch]), data.labels[batch]).backward()
        optimizer.step()
        seconds += time.perf_counter() - start
    return loss, updates, seconds


def main() -> None:
    """Train all variants, print the table and draw the picture."""
    parser = argparse.ArgumentParser(description="Batch, mini-batch and stochastic gradient descent side by side.")
    shown = "default: %(default)s"
    parser.add_argument("--share", type=not_negative, default=1.0, help=f"share of each variant's epochs ({shown})")
    parser.add_argument("--log", type=output_file, metavar="PATH", default="batch_variants.csv", help=shown)
    parser.add_argument("--plot", type=output_picture, metavar="PATH", default="batch_variants.png", help=shown)
    args = parser.parse_args()

    torch.set_num_threads(1)  # a second thread gains nothing for images this small
    print(f"{'':15} {'epochs':>6} {'updates':>8} {'seconds':>8} {'loss':>8}")
    with CSVWriter(args.log) as writer:
        for name, variant in VARIANTS.items():
            loss, updates, seconds = train(name, variant, args.share, writer)
            print(f"{name:15} {variant.epochs * args.share:6g} {updates:8} {seconds:8.2f} {loss:8.4f}")
    plot(["variants", "--log", args.log, "--out", args.plot])


if __name__ == "__main__":
    main()
