"""Draw a picture: `python -m torch_gd.plot PICTURE`. To add a picture, add its module to `PICTURES`."""

import argparse
from collections.abc import Sequence

from . import depth, landscape, large_batch, lr_sweep, overfitting, schedules, surfaces, variants
from .arguments import UsageError, output_picture

PICTURES = (schedules, lr_sweep, surfaces, landscape, variants, overfitting, depth, large_batch)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, and draw."""
    parser = argparse.ArgumentParser(prog="python -m torch_gd.plot", description="Draws a picture to a file.")
    commands = parser.add_subparsers(required=True, metavar="PICTURE")
    for picture in PICTURES:
        command = commands.add_parser(
            picture.COMMAND, help=picture.HELP, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        file = f"{picture.COMMAND}.png"
        command.add_argument("--out", type=output_picture, default=file, help="the file, its ending saying the format")
        picture.add_arguments(command)
        command.set_defaults(draw=picture.draw, error=command.error)
    chosen = parser.parse_args(arguments)
    try:
        chosen.draw(chosen)
    except (UsageError, ModuleNotFoundError) as error:
        chosen.error(str(error))
    except OSError as error:
        chosen.error(f"cannot write to {chosen.out!r}: {error.strerror}")
    print(chosen.out)


if __name__ == "__main__":
    main()
