"""Batch, mini-batch and stochastic gradient descent on the same problem.

    python examples/batch_variants.py   # prints a table, writes batch_variants.csv, draws batch_variants.png

They differ in one number, how many images make up the gradient of an update. Against epochs the small batch looks best
and against updates the large one; what one waits for are seconds. The noise is how far a batch's gradient lies from
that of all images, in lengths of the latter: the price of the small batch, and why it wants the smaller rate.
"""

import argparse
import time
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from train_digits import load

import torch_gd
from torch_gd.convergence.logs import CSVWriter
from torch_gd.plot.__main__ import main as plot


class Variant(NamedTuple):
    batch_size: int
    lr: float  # chosen by hand: larger batches have less noise and bear larger steps
    epochs: int


IMAGES = 1437
VARIANTS = {
    "batch, 1,437": Variant(IMAGES, 1.0, 200),
    "mini-batch, 32": Variant(32, 0.3, 20),
    "stochastic, 1": Variant(1, 0.02, 3),
}
READINGS = 40  # of the loss, during a run
NOISE_BATCHES = 8


def gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Of the mean loss, as one vector."""
    loss = F.cross_entropy(model(images), labels)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def train(name: str, variant: Variant, share: float, writer: CSVWriter) -> tuple[float, int, float]:
    """Trains for a share of the epochs; returns the last loss, the number of updates and the seconds they took."""
    torch.manual_seed(0)
    data = load()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    optimizer = torch_gd.SGD(model.parameters(), lr=variant.lr)
    per_epoch = -(-IMAGES // variant.batch_size)
    updates = max(round(variant.epochs * share * per_epoch), 1)
    # Closer together at first, where the loss changes most.
    readings = {round(updates * (i / READINGS) ** 2) for i in range(READINGS + 1)}

    seconds, batches = 0.0, iter(())
    for update in range(updates + 1):
        if update in readings:  # outside the time that is measured
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
    parser = argparse.ArgumentParser(description="Batch, mini-batch and stochastic gradient descent side by side.")
    parser.add_argument("--share", type=float, default=1.0, help="of each variant's epochs (default: %(default)s)")
    parser.add_argument("--log", metavar="PATH", default="batch_variants.csv", help="default: %(default)s")
    parser.add_argument("--plot", metavar="PATH", default="batch_variants.png", help="default: %(default)s")
    args = parser.parse_args()

    torch.set_num_threads(1)  # images this small gain nothing from a second
    print(f"{'':15} {'epochs':>6} {'updates':>8} {'seconds':>8} {'loss':>8}")
    with CSVWriter(args.log) as writer:
        for name, variant in VARIANTS.items():
            loss, updates, seconds = train(name, variant, args.share, writer)
            print(f"{name:15} {variant.epochs * args.share:6g} {updates:8} {seconds:8.2f} {loss:8.4f}")
    plot(["variants", "--log", args.log, "--out", args.plot])


if __name__ == "__main__":
    main()
