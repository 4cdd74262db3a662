"""Tables for people, results for files: text, Markdown, JSON."""

import datetime
import json
import platform
import shutil
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up as plain text too; all but the first are set right."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(cells, widths))]
        return f"| {' | '.join(padded)} |"

    rule = [("-" * (width - 1) + ":") if i else "-" * width for i, width in enumerate(widths)]
    return "\n".join([line(header), line(rule), *map(line, rows)])


def microseconds(seconds: float) -> str:
    """Three digits that mean something."""
    value = seconds * 1e6
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def environment() -> dict[str, str]:
    """On what, and with what, a run was made."""
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


def write(directory: Path, name: str, command: str, rows: list[dict[str, Any]], text: str, **more: Any) -> None:
    """Writes `name.json` (every figure) and `name.md` (what a person reads)."""
    directory.mkdir(parents=True, exist_ok=True)
    known = environment()
    content = {"command": command, "environment": known, **more, "rows": rows}
    (directory / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    where = ", ".join(f"{key} {value}" for key, value in known.items() if value != "none")
    (directory / f"{name}.md").write_text(f"`{command}`\n\n{where}\n\n{text}\n")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _driver() -> str:
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return str(torch.version.hip or "unknown")
    query = [smi, "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True).stdout.split("\n")[0].strip() or "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
