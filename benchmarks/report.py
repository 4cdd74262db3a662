"""Tables to read, and files of results: Markdown and JSON."""

import argparse
import datetime
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .argument_types import folder

RESULTS = Path(__file__).parent / "results"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose columns also line up as plain text; all but the first are set right."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(cells, widths))]
        return f"| {' | '.join(padded)} |"

    rule = [("-" * (width - 1) + ":") if i else "-" * width for i, width in enumerate(widths)]
    return "\n".join([line(header), line(rule), *map(line, rows)])


def microseconds(seconds: float) -> str:
    """Return a time in microseconds, with three digits or more."""
    value = seconds * 1e6
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def span(time: Mapping[str, float]) -> str:
    """Return the 10th to 90th percentile of a time, in microseconds."""
    return f"{microseconds(time['p10'])}–{microseconds(time['p90'])}"


def one_line(error: BaseException) -> str:
    """Return an error's type and the first line of its message."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def environment() -> dict[str, str]:
    """Return the hardware, the versions and the date of a run."""
    gpu = torch.cuda.is_available()
    return {
        "GPU": torch.cuda.get_device_name() if gpu else "none",
        "driver": _driver() if gpu else "none",
        "CPU": _processor(),
        "threads": str(torch.get_num_threads()),
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "date": datetime.date.today().isoformat(),
    }


def add_results_argument(parser: argparse.ArgumentParser, name: str, default: Path | None, note: str = "") -> None:
    """Add `--results`, the folder that `publish` writes to."""
    purpose = f"folder for {name}.json and {name}.md{note}"
    parser.add_argument("--results", metavar="DIR", type=folder, default=default, help=purpose)


def publish(
    directory: Path | None, name: str, command: str, rows: list[dict[str, Any]], text: str, **more: Any
) -> None:
    """Print the text; write it to `name.md`, and every figure to `name.json`.

    Args:
        directory: the folder to write to, created where it is missing; None to print only.
        name: the files' name without its ending.
        command: the command line that repeats the run.
        rows: the figures.
        text: the table and what has to be said of it.
        more: further entries of the JSON file.
    """
    print(text)
    if directory is None:
        return
    known = environment()
    content = {"command": command, "environment": known, **more, "rows": rows}
    where = ", ".join(f"{key} {value}" for key, value in known.items() if value != "none")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        (directory / f"{name}.md").write_text(f"`{command}`\n\n{where}\n\n{text}\n", encoding="utf-8")
    except OSError as error:
        print(f"{command}: the results could not be written: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def _version(package: str) -> str:
    """Return a package's version, or "none" where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _driver() -> str:
    """Return the version of the GPU's driver; of ROCm, torch's."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return str(torch.version.hip or "unknown")
    query = [smi, "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True).stdout.split("\n")[0].strip() or "unknown"


def _processor() -> str:
    """Return the CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
