"""Trains torchvision's ResNet-18 on CIFAR-10, with any of the optimizers.

    python examples/train_cifar10.py --download                       # 170 MB into ./data, once
    python examples/train_cifar10.py --optimizer nag --epochs 30
    python examples/train_cifar10.py --fake-data --steps 5            # to try it out: no network, no GPU

On a GPU it trains in bfloat16 autocast and channels-last. `resnet18` fits the network to 32 × 32 pixels.
"""

import argparse
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import torchvision_on_cpu  # noqa: F401  first: torchvision may not import without it
from argument_types import not_negative, positive, seed, usable_device
from optimizer_choices import CHOICES, Constructor, add_arguments, chosen
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, models, transforms
from tqdm import tqdm

from torch_gd.lr_scheduler import CosineAnnealingLR

MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of each channel, over the training images
TRAINING_IMAGES, TEST_IMAGES = 50_000, 10_000


class Epoch(NamedTuple):
    """What an epoch showed."""

    loss: float  # mean training loss
    accuracy: float  # share of the test images that are right


def load(folder: str, download: bool, fake: bool) -> tuple[Dataset[Any], Dataset[Any]]:
    """Return the training and the test set; random images and labels of the same shape if `fake`."""
    to_tensor = [transforms.ToTensor(), transforms.Normalize(MEAN, DEVIATION)]
    augment = transforms.Compose([transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), *to_tensor])
    plain = transforms.Compose(to_tensor)
    if fake:
        fake_data = partial(datasets.FakeData, image_size=(3, 32, 32), num_classes=10)
        return fake_data(TRAINING_IMAGES, transform=augment), fake_data(TEST_IMAGES, transform=plain)
    try:
        training = datasets.CIFAR10(folder, train=True, transform=augment, download=download)
        return training, datasets.CIFAR10(folder, train=False, transform=plain)
    except (RuntimeError, OSError) as error:  # it is not there, or cannot be fetched
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(
            f"no CIFAR-10 in {folder!r} ({reason}): pass --download to fetch it, --data DIR for a folder that has "
            "cifar-10-batches-py/ in it, or --fake-data to try the script on random images"
        ) from error


def resnet18() -> nn.Module:
    """Return a ResNet-18 (He et al. 2016) with a stem that keeps all pixels; ImageNet's would leave 8 × 8 of them."""
    model: nn.Module = models.resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def train(
    new_optimizer: Constructor,
    data: tuple[Dataset[Any], Dataset[Any]],
    lr: float,
    epochs: int,
    batch_size: int,
    seed: int,
    device: str,
    steps: int | None = None,
    label: str | None = None,
) -> list[Epoch]:
    """Train a new network; stop each epoch, and each test, after `steps` batches if given."""
    torch.manual_seed(seed)
    on_gpu = torch.device(device).type == "cuda"
    workers = 4 if on_gpu else 0
    loader = partial(DataLoader[Any], num_workers=workers, persistent_workers=on_gpu, pin_memory=on_gpu)
    training = loader(data[0], batch_size, shuffle=True, drop_last=True)
    testing = loader(data[1], batch_size)
    per_epoch = min(steps or len(training), len(training))

    model = resnet18().to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    optimizer = new_optimizer(model, lr)
    schedule = CosineAnnealingLR(optimizer, T_max=epochs * per_epoch)
    autocast = partial(torch.autocast, "cuda", dtype=torch.bfloat16, enabled=on_gpu)

    history = []
    for epoch in range(epochs):
        model.train()
        # The losses' sum is read only once in an epoch, because reading it waits for the GPU.
        total = torch.zeros((), dtype=torch.float64, device=device)
        progress = tqdm(islice(training, per_epoch), total=per_epoch, desc=f"{label} {epoch + 1}/{epochs}", unit="step")
        for images, labels in progress:
            images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
            with autocast():
                loss = F.cross_entropy(model(images), labels.to(device, non_blocking=True))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach()

        model.eval()
        right = torch.zeros((), dtype=torch.int64, device=device)
        seen = 0
        for images, labels in islice(testing, steps):
            images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
            with torch.no_grad(), autocast():
                right += (model(images).argmax(dim=1) == labels.to(device, non_blocking=True)).sum()
            seen += len(labels)
        history.append(Epoch(total.item() / per_epoch, right.item() / seen))
        print(f"{label} epoch {epoch + 1}: loss {history[-1].loss:.6f}, test accuracy {history[-1].accuracy:.1%}")
    return history


def main() -> None:
    """Train, beside torch if asked to, and print the accuracy."""
    parser = argparse.ArgumentParser(description="Train a ResNet-18 on CIFAR-10.")
    parser.add_argument(
        "--data", metavar="DIR", default="data", help="where CIFAR-10 is, or goes (default: %(default)s)"
    )
    parser.add_argument("--download", action="store_true", help="fetch CIFAR-10 if it is not there")
    parser.add_argument("--fake-data", action="store_true", help="random images instead: no network, nothing to learn")
    add_arguments(parser, default="nag")
    parser.add_argument("--epochs", type=positive, default=30, help="default: %(default)s")
    parser.add_argument("--batch-size", type=positive, default=128, help="default: %(default)s")
    parser.add_argument("--lr", type=not_negative, help="at the cosine schedule's top (default: the optimizer's own)")
    parser.add_argument("--seed", type=seed, default=0, help="of all that is random (default: %(default)s)")
    found = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", type=usable_device, default=found, help="default here: %(default)s")
    parser.add_argument("--steps", type=positive, metavar="N", help="stop an epoch after N batches (default: do not)")
    args = parser.parse_args()

    ours, torchs = chosen(parser, args)
    try:
        data = load(args.data, args.download, args.fake_data)
    except FileNotFoundError as error:
        parser.error(f"argument --data: {error}")
    if args.batch_size > TRAINING_IMAGES:
        parser.error(f"argument --batch-size: there are only {TRAINING_IMAGES:,} images to train on")
    lr = CHOICES[args.optimizer].cifar10 if args.lr is None else args.lr
    settings = (data, lr, args.epochs, args.batch_size, args.seed, args.device, args.steps)

    history = train(ours, *settings, label="torch_gd")
    if torchs is not None:
        differences = [abs(a.loss - b.loss) for a, b in zip(history, train(torchs, *settings, label="torch.optim"))]
        print(f"largest difference of the losses: {max(differences):.1e}")
    print(f"{args.optimizer}, lr {lr:g}: test accuracy {history[-1].accuracy:.1%}")


if __name__ == "__main__":
    main()
