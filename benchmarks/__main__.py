"""`python -m benchmarks codegen | host | cpu | gpu | clip | memory | step | ratios`."""

import argparse
from importlib import import_module

from torch_gd._engine import backend

COMMANDS = {
    "codegen": "count what the compiler makes of each rule, for GPUs that need not be here",
    "host": "time the host's part of a step, up to the launch, beside torch's",
    "cpu": "time full steps on the CPU beside torch's best",
    "gpu": "time full steps on a GPU beside torch's and other packages'",
    "clip": "time clipping by global norm and a step beside torch's clip_grad_norm_ and step",
    "memory": "count AdamW's bytes a parameter beside other packages', and train in every precision",
    "ratios": "draw the committed results of `cpu` as a picture",
    "step": "time the step over your own model's parameters beside torch's, on the device there is",
}


def main(argv: list[str] | None = None) -> None:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Benchmarks of torch_gd.")
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, purpose in COMMANDS.items():
        if name == "codegen" and backend.launch is None:
            continue  # codegen imports Triton
        module = import_module(f"benchmarks.{name}")
        command = commands.add_parser(name, help=purpose, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    arguments = parser.parse_args(argv)
    arguments.run(arguments)


if __name__ == "__main__":
    main()
