"""What the examples' `--optimizer` takes: all of `torch_gd.list_optimizers()`, each with rates that suit it."""

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import nn

import torch_gd

# From a model and a learning rate.
Constructor = Callable[[nn.Module, float], torch.optim.Optimizer]


class Choice(NamedTuple):
    """An optimizer's counterpart in torch, and the settings that both are trained with."""

    torchs: Callable[..., torch.optim.Optimizer] | None  # None where torch has none
    digits: float  # learning rate of train_digits.py
    cifar10: float  # learning rate of train_cifar10.py, at the schedule's top
    weight_decay: float = 0.0
    options: Mapping[str, Any] = MappingProxyType({})


SGD, Adam, NAdam, RAdam = torch.optim.SGD, torch.optim.Adam, torch.optim.NAdam, torch.optim.RAdam
NAG = partial(SGD, momentum=0.9, nesterov=True)
# As the docstrings of LARS and LAMB advise, biases keep the step of SGD and Adam. With LARS's usual trust coefficient,
# 0.001, rates that suit the weights are far too high for them.
LAMB, LARS = {"always_adapt": False}, {"always_adapt": False, "trust_coeff": 0.02}

# Plain SGD takes the highest rate of those that follow the gradient; a momentum of 0.9 adds up about ten gradients and
# takes a fraction of it. Adam and its kin move each element by about the rate, whatever the size of its gradient, and
# take about a hundredth; Lion moves all by exactly the rate and takes less still. RMSprop corrects no bias, so that its
# first steps are 1 / sqrt(1 - alpha) = 10 times the rate. Adagrad's steps only ever shrink, and its rate is higher.
# Adadelta and LAMB find the size of a step by themselves, the one from a tiny step on, the other as a share of the
# weights. After 15 epochs on the digits, each gets 97 % right or more, and 95 % at half the rate.
#
# The usual rates for CIFAR-10 are SGD's, NAG's, and those of Adam and its kin. Those of LAMB, LARS, Lion, Adadelta and
# RAdam were tried on the example's network, with digits for images: at a quarter and at four times the rate it did no
# better, or not by much. Decay is part of the gradient for SGD, NAG and LARS, at the 5e-4 that is usual since He et al.
# Adaptive ones would divide such a decay by the gradient's size as well: they have none, or a decoupled one.
CHOICES = {
    "adadelta": Choice(torch.optim.Adadelta, 2.0, 1.0),
    "adagrad": Choice(torch.optim.Adagrad, 0.05, 0.01),
    "adam": Choice(Adam, 0.005, 1e-3),
    "adamax": Choice(torch.optim.Adamax, 0.01, 2e-3),
    "adamw": Choice(torch.optim.AdamW, 0.005, 1e-3, 5e-2),
    "lamb": Choice(None, 0.01, 5e-3, 5e-2, LAMB),
    "lars": Choice(None, 0.15, 0.1, 5e-4, LARS),
    "lion": Choice(None, 0.002, 1e-4, 0.5),
    "momentum": Choice(partial(SGD, momentum=0.9), 0.1, 0.1, 5e-4),
    "nadam": Choice(NAdam, 0.005, 1e-3),
    "nadamw": Choice(partial(NAdam, decoupled_weight_decay=True), 0.005, 1e-3, 5e-2),
    "nag": Choice(NAG, 0.1, 0.1, 5e-4),
    "nesterov": Choice(NAG, 0.1, 0.1, 5e-4),
    "radam": Choice(RAdam, 0.02, 2e-3),
    "radamw": Choice(partial(RAdam, decoupled_weight_decay=True), 0.02, 2e-3, 5e-2),
    "rmsprop": Choice(torch.optim.RMSprop, 0.003, 1e-3),
    "sgd": Choice(SGD, 0.4, 0.2, 5e-4),
    "sgdw": Choice(None, 0.4, 0.2, 5e-4),
}


def ours(name: str) -> Constructor:
    """Return what makes our optimizer of a name; biases and the gains of normalisation layers do not decay."""
    choice = CHOICES[name]
    return lambda model, lr: torch_gd.create_optimizer(name, model, lr, choice.weight_decay, **choice.options)


def torchs(name: str) -> Constructor | None:
    """Return what makes torch's counterpart with the same parameter groups, or None where torch has none."""
    choice = CHOICES[name]
    if choice.torchs is None:
        return None
    kind = choice.torchs
    return lambda model, lr: kind(torch_gd.param_groups_weight_decay(model, choice.weight_decay), lr=lr)


def add_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    """Add `--optimizer` and `--against-torch`."""
    names = f"{', '.join(CHOICES)} (default: %(default)s)"
    parser.add_argument("--optimizer", type=str.lower, choices=CHOICES, default=default, metavar="NAME", help=names)
    parser.add_argument("--against-torch", action="store_true", help="train once more, with torch.optim, and compare")


def chosen(parser: argparse.ArgumentParser, args: argparse.Namespace) -> tuple[Constructor, Constructor | None]:
    """Return what makes the chosen optimizer, and torch's counterpart if it was asked for."""
    if not args.against_torch:
        return ours(args.optimizer), None
    if (theirs := torchs(args.optimizer)) is None:
        parser.error(f"argument --against-torch: torch.optim has no {args.optimizer} to compare with")
    return ours(args.optimizer), theirs
