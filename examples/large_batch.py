"""Large batches: SGD, AdamW, LARS and LAMB, with rates that are scaled by the size of the batch.

    python examples/large_batch.py      # under a minute: prints a table, writes large_batch.csv, draws large_batch.png

Every run sees each image 20 times: in 900 updates by 32 images, or in 20 updates by all 1,437. The learning rate is
chosen for 32 images. For more it stays, or grows with the square root of the batch's size, or with the size itself.

This shows what LAMB is for: with the square root, its rate needs no new search. On all images it still gets 77 % right,
where LARS gets 62 %, SGD 52 % and AdamW 19 %. It does not show that LAMB learns more than another optimizer with a rate
of its own for each size: AdamW at its old rate gets 82 % right, and LAMB at its best rate no more than 80 %. A network
as small as this one gives layers little chance to differ. Growth with the size itself is too much for all beyond 128.
"""

import argparse
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from argument_types import output_file, output_picture, positive
from torch import nn
from train_digits import Digits, load

import torch_gd
from torch_gd.convergence.logs import CSVWriter
from torch_gd.lr_scheduler import CosineSchedule
from torch_gd.plot.__main__ import main as plot

IMAGES, SMALL = 1437, 32
BATCHES = (SMALL, 128, 512, IMAGES)
LAYERS, WIDTH = 6, 64
WARMUP = 0.2  # of the run; then a cosine


class Choice(NamedTuple):
    """An optimizer by its name in `create_optimizer`, and its learning rate at a batch size of 32."""

    name: str
    lr: float
    options: dict[str, Any]


# Each rate is the one, of those a factor of 2 apart, that ends with the lowest mean training loss over the seeds.
# LARS and LAMB leave biases out of decay and scaling, as their docstrings advise. With LARS's usual trust coefficient,
# 0.001, the rate that suits the weights would be far too high for the biases.
OPTIMIZERS = {
    "SGD": Choice("momentum", 0.1, {}),
    "AdamW": Choice("adamw", 0.01, {}),
    "LARS": Choice("lars", 0.4, {"trust_coeff": 0.02, "always_adapt": False}),
    "LAMB": Choice("lamb", 0.01, {"always_adapt": False}),
}
RULES = {"unscaled": 0.0, "square root": 0.5, "linear": 1.0}  # the power of batch size / 32 that the rate grows with


class Result(NamedTuple):
    """What a training ended with."""

    loss: float  # of all images trained on
    accuracy: float  # share of the test images that are right


def train(data: Digits, choice: Choice, batch_size: int, lr: float, epochs: int, seed: int) -> Result:
    """Train a new network; its weights and the order of the images depend on `seed` alone."""
    torch.manual_seed(seed)
    hidden = [layer for _ in range(LAYERS - 2) for layer in (nn.Linear(WIDTH, WIDTH), nn.Tanh())]
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, WIDTH), nn.Tanh(), *hidden, nn.Linear(WIDTH, 10))
    optimizer = torch_gd.create_optimizer(choice.name, model, lr, **choice.options)
    schedule = CosineSchedule(optimizer, total_steps=epochs * -(-IMAGES // batch_size), warmup=WARMUP)
    for _ in range(epochs):
        for batch in torch.randperm(IMAGES).split(batch_size):
            optimizer.zero_grad()
            F.cross_entropy(model(data.images[batch]), data.labels[batch]).backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        loss = F.cross_entropy(model(data.images), data.labels).item()
        right = model(data.test_images).argmax(1) == data.test_labels
    return Result(loss, right.double().mean().item())


def average(data: Digits, choice: Choice, batch_size: int, lr: float, epochs: int, seeds: int) -> Result:
    """Return the means over several seeds."""
    runs = [train(data, choice, batch_size, lr, epochs, seed) for seed in range(seeds)]
    return Result(*(sum(column) / seeds for column in zip(*runs)))


def main() -> None:
    """Train all, print the table and draw the picture."""
    parser = argparse.ArgumentParser(description="SGD, AdamW, LARS and LAMB at small and large batch sizes.")
    shown = "default: %(default)s"
    parser.add_argument("--epochs", type=positive, default=20, help=f"of every run ({shown})")
    parser.add_argument("--seeds", type=positive, default=3, help=f"runs that each number is the mean of ({shown})")
    parser.add_argument("--log", type=output_file, metavar="PATH", default="large_batch.csv", help=shown)
    parser.add_argument("--plot", type=output_picture, metavar="PATH", default="large_batch.png", help=shown)
    args = parser.parse_args()

    torch.set_num_threads(1)  # a second thread gains nothing for layers this small
    data = load()
    print(f"{'images in a batch':20}" + "".join(f"{size:8,}" for size in BATCHES))
    print(f"{'updates':20}" + "".join(f"{args.epochs * -(-IMAGES // size):8,}" for size in BATCHES))
    with CSVWriter(args.log) as writer:
        for name, choice in OPTIMIZERS.items():
            small = average(data, choice, SMALL, choice.lr, args.epochs, args.seeds)  # of which each rule is the same
            for rule, power in RULES.items():
                results = {SMALL: small}
                for size in BATCHES[1:]:
                    lr = choice.lr * (size / SMALL) ** power
                    results[size] = average(data, choice, size, lr, args.epochs, args.seeds)
                for size, result in results.items():
                    writer.add_scalar(f"{name}, {rule}/loss", result.loss, size)
                    writer.add_scalar(f"{name}, {rule}/accuracy", result.accuracy, size)
                row = "".join(f"{result.accuracy:8.1%}" for result in results.values())
                print(f"{f'{name}, {rule}':20}{row}", flush=True)
    plot(["large-batch", "--log", args.log, "--out", args.plot])


if __name__ == "__main__":
    main()
