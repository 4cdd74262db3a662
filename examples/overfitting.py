"""Over-fitting on few digits, as the monitor reports it, and five remedies that each narrow the gap.

    python examples/overfitting.py      # prints a table, writes overfitting.csv and draws overfitting.png

A network large enough for 100 images learns them by heart, a few wrong labels among them: its training loss falls to 0
while its validation loss rises. L1, L2, dropout, early stopping and augmentation each keep the two closer together.
"""

import argparse
from typing import NamedTuple

import torch
import torch.nn.functional as F
import torchvision_on_cpu  # noqa: F401  first: torchvision may not import without it
from argument_types import output_file, output_picture, positive
from torch import Tensor, nn
from torchvision import transforms
from train_digits import load

import torch_gd
from torch_gd.convergence import Criterion, EarlyStopping, MaxEpochs, Monitor
from torch_gd.convergence.logs import CSVWriter
from torch_gd.plot.__main__ import main as plot

IMAGES, BATCH, LR = 100, 20, 0.05
WRONG = 8  # one label in 8 is drawn at random, so that there is more to learn by heart


class Remedy(NamedTuple):
    """A remedy against over-fitting; by default none."""

    l1: float = 0.0
    l2: float = 0.0
    dropout: float = 0.0
    patience: int | None = None  # of early stopping, in epochs
    augment: bool = False


# Each is strong enough to show an effect, and weak enough that the network still learns.
REMEDIES = {
    "no remedy": Remedy(),
    "L1": Remedy(l1=0.01),
    "L2": Remedy(l2=0.01),
    "dropout": Remedy(dropout=0.8),
    "early stopping": Remedy(patience=10),
    "augmentation": Remedy(augment=True),
}


class Result(NamedTuple):
    """What a training showed, at its end."""

    train: float  # loss
    validation: float  # loss
    accuracy: float
    zeros: float  # share of weights that are exactly 0
    verdicts: list[str]  # the monitor's


def train(name: str, remedy: Remedy, epochs: int, writer: CSVWriter) -> Result:
    """Train a network with a remedy and log its losses."""
    torch.manual_seed(0)
    data = load(samples=IMAGES)
    wrong = torch.arange(IMAGES) % WRONG == 0
    labels = torch.where(wrong, torch.randint(10, (IMAGES,)), data.labels)
    dropout = nn.Dropout(remedy.dropout)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.GELU(), dropout, nn.Linear(256, 10))
    weights = [p for p in model.parameters() if p.ndim > 1]
    # L2 and L1 leave biases alone, which have no part in over-fitting.
    groups = torch_gd.param_groups_weight_decay(model, remedy.l2)
    for group in groups:
        (_, first), *_ = group["params"]
        group["l1"] = remedy.l1 if first.ndim > 1 else 0.0
    optimizer = torch_gd.SGD(groups, lr=LR, momentum=0.9)
    shift = transforms.RandomAffine(degrees=12, translate=(0.12, 0.12), scale=(0.9, 1.1))

    monitor = Monitor(optimizer, model)
    stop: Criterion = MaxEpochs(epochs)
    if remedy.patience is not None:
        stop = stop | EarlyStopping("validation", patience=remedy.patience, model=model)

    def losses() -> tuple[float, float]:
        """Return training and validation loss without dropout or augmentation, so that remedies compare."""
        model.eval()
        with torch.no_grad():
            training = F.cross_entropy(model(data.images), labels).item()
            validation = F.cross_entropy(model(data.test_images), data.test_labels).item()
        model.train()
        return training, validation

    for epoch in range(1, epochs + 1):
        for batch in torch.randperm(IMAGES).split(BATCH):
            images: Tensor = data.images[batch]
            if remedy.augment:
                images = torch.stack([shift(image) for image in images])
            loss = F.cross_entropy(model(images), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        training, validation = losses()
        monitor.train_loss(training)
        monitor.validation_loss(validation)
        writer.add_scalar(f"{name}/train", training, epoch)
        writer.add_scalar(f"{name}/validation", validation, epoch)
        if stop(epoch=epoch, validation=validation):
            break

    training, validation = losses()  # once more: early stopping has restored the best weights
    if remedy.patience is not None:
        writer.add_scalar(f"{name}/train", training, epoch + 1)
        writer.add_scalar(f"{name}/validation", validation, epoch + 1)
    model.eval()
    with torch.no_grad():
        accuracy = (model(data.test_images).argmax(1) == data.test_labels).double().mean().item()
        zeros = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
    return Result(training, validation, accuracy, zeros, [str(v) for v in monitor.verdicts()])


def main() -> None:
    """Train with every remedy, print the table and draw the picture."""
    parser = argparse.ArgumentParser(description="Over-fit a network to 100 digits, and remedy it in five ways.")
    shown = "default: %(default)s"
    parser.add_argument("--epochs", type=positive, default=100, help=shown)
    parser.add_argument("--log", type=output_file, metavar="PATH", default="overfitting.csv", help=shown)
    parser.add_argument("--plot", type=output_picture, metavar="PATH", default="overfitting.png", help=shown)
    args = parser.parse_args()

    torch.set_num_threads(1)  # a second thread gains nothing for images this small
    with CSVWriter(args.log) as writer:
        results = {name: train(name, remedy, args.epochs, writer) for name, remedy in REMEDIES.items()}

    print(f"{'':15} {'training':>9} {'validation':>10} {'gap':>6} {'accuracy':>9} {'zeros':>6}")
    for name, r in results.items():
        gap = r.validation - r.train
        print(f"{name:15} {r.train:9.4f} {r.validation:10.4f} {gap:6.3f} {r.accuracy:9.1%} {r.zeros:6.0%}")
    for name, r in results.items():
        print(f"{name}: {'; '.join(r.verdicts) or 'nothing wrong was found'}")
    plot(["overfitting", "--log", args.log, "--out", args.plot])


if __name__ == "__main__":
    main()
