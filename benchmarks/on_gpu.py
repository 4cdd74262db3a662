"""All that only a GPU can show, in parts: `make gpu`, or `python3 -m benchmarks.on_gpu [PART …]`.

It takes a checkout, the dependencies and a GPU: no network, no environment of its own. The parts run in the order of
their worth, each in a process of its own, so that a fault in one does not end the others. What each prints, its exit
status and its results go to `benchmarks/results/on_gpu`; remove that folder to begin anew. Unless parts are named, what
has passed there, with the same versions and commit, does not run again. If `$OUT` is set, that folder gets the summary
and an archive of all.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import monotonic

ROOT = Path(__file__).parent.parent
FOLDER = Path(__file__).parent / "results" / "on_gpu"
LIMIT = 460.0  # seconds; a part ends in less than 8 minutes
GRACE = 15.0  # seconds that an interrupted part has to say what it reached
# The test files of the first two parts; the last part has the others.
KERNELS = ["parity", "paths", "clip_grad", "policies", "norms", "arithmetic", "large", "amp", "cuda_graph"]
ENGINE = ["state", "optim_db", "options", "inputs", "handle", "guard", "changes", "explain", "host_never_waits"]
ENGINE += ["new_optimizer", "torch_compile", "tracing", "fused_rmsprop"]
END = re.compile(r"exit status (-?\d+) after \d+ s.*")
DULL = re.compile(r"SKIPPED|=+ |\d+\.\d+s |\s*$")  # lines at a log's end that say nothing of the result
WHERE = "import json; from benchmarks.report import environment; print(json.dumps(environment()))"


@dataclass(frozen=True)
class Part:
    """What one process does.

    Args:
        command: the arguments of `python3`; `{folder}` stands for the folder of the results, `{device}` for cuda, or
            cpu in a rehearsal.
        seconds: how long it takes, roughly.
        rehearsal: further arguments, which make it small.
        interpret: whether its rehearsal needs interpreted kernels.
    """

    command: tuple[str, ...]
    seconds: int
    rehearsal: tuple[str, ...]
    interpret: bool = False


def suite(names: list[str], seconds: int) -> Part:
    """Return a part that runs test files, several side by side if pytest-xdist is installed."""
    several = ("-n", str(min(8, os.cpu_count() or 1)), "--dist", "loadfile") if find_spec("xdist") else ()
    files = (f"tests/test_{name}.py" for name in names)
    return Part(("-m", "pytest", "-q", "--durations=10", *several, *files), seconds, ("--collect-only",))


def parts() -> dict[str, Part]:
    """Return all parts, in the order of their worth; every test file is in one of them."""
    files = sorted(path.stem.removeprefix("test_") for path in (ROOT / "tests").glob("test_*.py"))
    benchmark, to, device = ("-m", "benchmarks"), ("--results", "{folder}"), ("--device", "{device}")
    digits = ("examples/train_digits.py", *device, "--against-torch", "--plot", "{folder}/digits.png")
    cifar10 = ("examples/train_cifar10.py", *device, "--against-torch", "--fake-data", "--epochs", "1", "--steps", "20")
    return {
        "kernels": suite(KERNELS, 150),
        "engine": suite(ENGINE, 100),
        "gpu": Part((*benchmark, "gpu", *to, *device, "--seconds", "300"), 330, ("--quick",), interpret=True),
        "clip": Part((*benchmark, "clip", *to, *device), 120, ("--quick",), interpret=True),
        "host": Part((*benchmark, "host", *to), 60, ("--quick",)),
        "digits": Part(digits, 30, ("--samples", "64", "--epochs", "1"), interpret=True),
        "cifar10": Part(cifar10, 60, ("--steps", "1", "--batch-size", "4")),
        "rest": suite([name for name in files if name not in (*KERNELS, *ENGINE)], 240),
    }


def run(arguments: list[str], log: Path, where: str, interpret: bool = False, limit: float = LIMIT) -> None:
    """Run Python; its output goes to a file, between a line that says what and where and one with the exit status.

    At the limit it is interrupted, as by Ctrl-C, upon which pytest says what it reached, and a little later killed.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TQDM_DISABLE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment |= {"TRITON_INTERPRET": "1"} if interpret else {}
    start, stopped = monotonic(), ""
    with log.open("a", encoding="utf-8") as file:
        file.truncate(0)
        print(f"python3 {' '.join(arguments)} | {where}", file=file, flush=True)
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            stopped = f", stopped at its limit of {limit:g} s"
            os.killpg(process.pid, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and what it may have left running
        print(f"\nexit status {process.wait()} after {monotonic() - start:.0f} s{stopped}", file=file)


def read(log: Path, where: str) -> tuple[str, list[str]]:
    """Return a part's result and the lines of its output that tell most; one from elsewhere counts as not run."""
    first, *lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else [""]
    if not first.endswith(f"| {where}"):
        return "not run", []
    end = END.fullmatch(lines[-1]) if lines else None
    result = "not finished" if end is None else "passed" if end[1] == "0" else "failed"
    faults = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    return result, [*faults, *(line for line in lines[-10:] if line not in faults and not DULL.match(line))]


def summary(names: list[str], folder: Path, where: str) -> str:
    """Return each part's result, and the lines of its output that tell most."""
    found = {name: read(folder / f"{name}.txt", where) for name in names}
    results = [result for result, _ in found.values()]
    counts = ", ".join(f"{results.count(result)} {result}" for result in dict.fromkeys(results))
    text = [f"# On {where}", "", f"{counts}. Each part's whole output is in the file of its name."]
    for name, (result, lines) in found.items():
        text += ["", f"## {name}: {result}", *(f"    {line}" for line in lines)]
    return "\n".join(text) + "\n"


def hand_over(folder: Path) -> None:
    """Copy the summary and an archive of all to `$OUT`, if it is set."""
    if os.environ.get("OUT"):
        out = Path(os.environ["OUT"])
        (out / "summary.md").write_bytes((folder / "summary.md").read_bytes())
        with tarfile.open(out / "on_gpu.tar.gz", "w:gz") as archive:
            archive.add(folder, folder.name)


def place(rehearse: bool) -> str:
    """Return GPU, versions and commit; end with a sentence if there is no GPU."""
    asked = subprocess.run([sys.executable, "-c", WHERE], cwd=ROOT, capture_output=True, text=True)
    if asked.returncode != 0:
        raise SystemExit(f"torch or this package cannot be imported:\n{asked.stderr}")
    known = json.loads(asked.stdout.splitlines()[-1])
    if known["GPU"] == "none" and not rehearse:
        raise SystemExit("torch finds no GPU, so nothing was run; --rehearse tries every part in small, without one")
    with suppress(OSError):
        git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
        known["commit"] = git.stdout.strip() or "unknown"
    kept = ("GPU", "driver", "Python", "torch", "triton", "commit")
    return ", ".join(f"{key} {known[key]}" for key in kept if key in known)


def main(argv: list[str] | None = None) -> None:
    """Run the parts that are named, or those that have not passed; print the summary; exit with 1 unless all passed."""
    table = parts()
    parser = argparse.ArgumentParser(prog="python3 -m benchmarks.on_gpu", description=__doc__)
    parser.add_argument("part", nargs="*", metavar="PART", help=f"of {', '.join(table)} (default: what has not passed)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no part that may end after that")
    parser.add_argument("--rehearse", action="store_true", help="try every part in small, without a GPU")
    parser.add_argument("--results", type=Path, metavar="DIR", help="folder (default: benchmarks/results/on_gpu)")
    arguments = parser.parse_args(argv)
    if unknown := [name for name in arguments.part if name not in table]:
        parser.error(f"there is no part {', '.join(map(repr, unknown))}; there are {', '.join(table)}")
    if arguments.rehearse and arguments.results is None:
        parser.error("a rehearsal's results are not worth keeping: name a folder with --results")
    start, where = monotonic(), place(arguments.rehearse)
    folder = (arguments.results or FOLDER).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.part or table:
        part, log = table[name], folder / f"{name}.txt"
        left = arguments.seconds - (monotonic() - start) - GRACE
        device, more = ("cpu", part.rehearsal) if arguments.rehearse else ("cuda", ())
        command = [each.format(folder=folder, device=device) for each in (*part.command, *more)]
        if not arguments.part and read(log, where)[0] == "passed":
            print(f"{name}: has passed before", flush=True)
        elif part.seconds > left:
            print(f"{name}: not started, it may take {part.seconds} s", flush=True)
        else:
            print(f"{name}: about {part.seconds} s", flush=True)
            run(command, log, where, part.interpret and arguments.rehearse, min(LIMIT, left))
            (folder / "summary.md").write_text(summary(list(table), folder, where), encoding="utf-8")
            hand_over(folder)
    text = summary(list(table), folder, where)
    print(text, end="")
    if any(read(folder / f"{name}.txt", where)[0] != "passed" for name in arguments.part or table):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
