"""`python -m benchmarks codegen | host | cpu | gpu`."""

import argparse
from importlib import import_module

from torch_gd._engine import backend

COMMANDS = {
    "codegen": "what the compiler makes of each rule, for GPUs that need not be here",
    "host": "host time of a step up to the launch, beside torch's",
    "cpu": "full steps on the CPU, beside torch's best",
    "gpu": "full steps on a GPU, beside torch's and other packages'",
    "clip": "clipping by global norm and a step, beside torch's clip_grad_norm_ and step",
}


def main(argv: list[str] | None = None) -> None:
    """Runs one benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Benchmarks of torch_gd.")
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, purpose in COMMANDS.items():
        if name == "codegen" and backend.launch is None:
            continue  # there is no compiler
        module = import_module(f"benchmarks.{name}")
        command = commands.add_parser(name, help=purpose, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    arguments = parser.parse_args(argv)
    arguments.run(arguments)


if __name__ == "__main__":
    main()
