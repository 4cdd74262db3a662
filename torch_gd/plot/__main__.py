"""Draw a picture: `python -m torch_gd.plot PICTURE`. To add a picture, add its module to `PICTURES`."""

import argparse
from collections.abc import Sequence

from . import depth, landscape, lr_sweep, overfitting, schedules, surfaces, variants

PICTURES = (schedules, lr_sweep, surfaces, landscape, variants, overfitting, depth)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, and draw."""
    parser = argparse.ArgumentParser(prog="python -m torch_gd.plot", description="Draws a picture to a file.")
    commands = parser.add_subparsers(required=True, metavar="PICTURE")
    for picture in PICTURES:
        command = commands.add_parser(
            picture.COMMAND, help=picture.HELP, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        command.add_argument("--out", default=f"{picture.COMMAND}.png", help="the file, its ending saying the format")
        picture.add_arguments(command)
        command.set_defaults(draw=picture.draw)
    chosen = parser.parse_args(arguments)
    chosen.draw(chosen)
    print(chosen.out)


if __name__ == "__main__":
    main()
