"""Steps of models that several processes share, which must be those of one process. The cases are in `worlds.py`."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

import torch_gd

if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
    pytest.skip("this torch has no process groups", allow_module_level=True)

from worlds import WORLDS

from torch_gd._engine import shards

CASES = [
    (world, case)
    for world, cases in WORLDS.items()
    if world > 1 or torch.cuda.is_available()  # one rank shows nothing without a GPU
    for case in cases
]
MINUTES = 10  # a world takes less than one, however many of them are under way


@cache
def results_of(world: int) -> dict[str, str]:
    """Return the error text of each case that a world has come to, or an empty one; each world is started once."""
    found: dict[str, str] = {}
    loopback = {"GLOO_SOCKET_IFNAME": "lo"} if Path("/sys/class/net/lo").exists() else {}
    with TemporaryDirectory() as folder:
        command = [sys.executable, str(Path(__file__).with_name("worlds.py")), str(world), folder]
        environment = {**os.environ, **loopback}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60 * MINUTES)
        for rank in range(world):
            file = Path(folder, str(rank))
            for name, error in map(json.loads, file.read_text().splitlines() if file.exists() else []):
                found[name] = found.get(name, "") + (f"rank {rank}: {error}" if error else "")
    found[""] = done.stderr
    return found


@pytest.mark.parametrize(("world", "case"), CASES)
def test_in_a_world(world: int, case: str) -> None:
    results = results_of(world)
    assert case in results, f"the world ended before: {results['']}"
    assert not results[case], results[case]


@pytest.mark.parametrize("kind", [None, object(), type("Unknown", (), {"DTensor": type("DTensor", (), {})})])
def test_a_torch_whose_dtensors_we_do_not_know(kind: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without process groups, or with other private names, everything is as for plain tensors."""
    monkeypatch.setitem(sys.modules, "torch.distributed.tensor", kind)
    assert shards.dtensor_class() is None
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.ones(3)
    torch_gd.SGD([p], lr=1.0).step()
    assert torch.equal(p.detach(), torch.zeros(3))
