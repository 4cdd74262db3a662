"""Every schedule, in a panel of its own."""

import argparse

import torch
from torch.optim import Optimizer

from ..lr_scheduler import (
    ConstantSchedule,
    CosineRestartsSchedule,
    CosineSchedule,
    ExponentialSchedule,
    InverseSqrtSchedule,
    LinearSchedule,
    MultiStepSchedule,
    OneCycleSchedule,
    PolynomialSchedule,
    Schedule,
    StepSchedule,
    Warmup,
    WarmupStableDecaySchedule,
    functions,
)
from .arguments import UsageError, count, positive
from .figure import COLOURS, new_figure, save

COMMAND, HELP = "schedules", "draw every schedule to one picture"

FEWEST = 5  # steps after the warm-up: there is a drop at every fifth of them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this picture."""
    parser.add_argument("--steps", type=positive, default=1000, help="length of the run")
    parser.add_argument("--warmup", type=count, default=100, help="steps of warm-up")


def draw(arguments: argparse.Namespace) -> None:
    """Draw all panels to `arguments.out`."""
    if arguments.steps < arguments.warmup + FEWEST:
        raise UsageError(
            f"argument --steps: {arguments.steps} leave too few after a warm-up of {arguments.warmup}; "
            f"{FEWEST} are needed there"
        )
    steps = range(arguments.steps + 1)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0, momentum=0.9)
    figure = new_figure(13, 8.5)
    *panels, last = figure.subplots(3, 4, sharex=True).flat
    for axes, (title, curves) in zip(panels, schedules(optimizer, arguments.steps, arguments.warmup).items()):
        for (label, schedule), colour in zip(curves.items(), COLOURS):
            axes.plot(steps, [schedule.factor(step) for step in steps], color=colour, label=label)
        axes.set_title(title)
        axes.set_ylim(-0.05, 1.4)  # room for a legend
        if len(curves) > 1:
            axes.legend(fontsize=8)
    cycle = OneCycleSchedule(optimizer, arguments.steps)
    last.plot(steps, [cycle.momentum(step) for step in steps], color=COLOURS[0])
    last.set_title("one-cycle: the momentum")
    for axes in (*panels, last):
        axes.grid(alpha=0.3)
    figure.supxlabel("step")
    figure.supylabel("factor on the base learning rate")
    save(figure, arguments.out)


def schedules(o: Optimizer, n: int, w: int) -> dict[str, dict[str, Schedule]]:
    """Return schedules over n steps, of which w are warm-up, by the title of their panel and by their own name."""
    decay = n - w
    return {
        "warm-up": {
            kind: ConstantSchedule(o, n, Warmup(n // 2, kind, start=0.05 if kind in ("exponential", "constant") else 0))
            for kind in functions.WARMUPS
        },
        "constant": {"": ConstantSchedule(o, n, w)},
        "linear": {f"floor {floor}": LinearSchedule(o, n, floor, w) for floor in (0, 0.2)},
        "cosine": {f"floor {floor}": CosineSchedule(o, n, floor, w) for floor in (0, 0.2)},
        "cosine with restarts": {
            "equal cycles": CosineRestartsSchedule(o, decay // 4, total_steps=n, warmup=w),
            "twice as long, 0.7 as high": CosineRestartsSchedule(o, decay // 7 + 1, 2, 0.7, total_steps=n, warmup=w),
        },
        "polynomial": {f"power {power}": PolynomialSchedule(o, n, power, warmup=w) for power in (0.5, 2.0, 4.0)},
        "exponential": {f"to 1/{end}": ExponentialSchedule(o, float(end ** (-1 / decay)), n, w) for end in (10, 100)},
        "step and multi-step": {
            "every fifth of the run": StepSchedule(o, decay // 5, 0.5, n, w),
            "at a half and three quarters": MultiStepSchedule(o, [decay // 2, 3 * decay // 4], 0.1, n, w),
        },
        "inverse square root": {"": InverseSqrtSchedule(o, None, n, w)},
        "warm-up, stable, decay": {
            tail: WarmupStableDecaySchedule(o, n, 2 * decay // 5, tail, warmup=w) for tail in functions.TAILS
        },
        "one-cycle": {
            "two phases": OneCycleSchedule(o, n),
            "three phases, linear": OneCycleSchedule(o, n, anneal_strategy="linear", three_phase=True),
        },
    }
