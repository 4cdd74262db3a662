"""Optimizers by name: each is its class with its defaults, and a model's biases do not decay."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import torch_gd
from torch_gd.optimizers.by_name import OPTIMIZERS


@pytest.mark.parametrize("name", torch_gd.list_optimizers())
def test_a_name_is_a_class_with_its_defaults(name: str) -> None:
    p = torch.zeros(2, requires_grad=True)
    kind, options = OPTIMIZERS[name]
    made, expected = torch_gd.create_optimizer(name.upper(), [p]), kind([p], **options)
    assert type(made) is kind
    assert made.defaults == expected.defaults


def test_every_class_has_a_name() -> None:
    classes = {
        kind
        for kind in vars(torch_gd).values()
        if isinstance(kind, type) and issubclass(kind, torch_gd.FusedOptimizer) and kind is not torch_gd.FusedOptimizer
    }
    assert {kind for kind, _ in OPTIMIZERS.values()} == classes


@pytest.mark.parametrize("name", torch_gd.list_optimizers())
@pytest.mark.parametrize("weight_decay", [None, 0.0, 0.25])
def test_of_a_model_biases_do_not_decay(name: str, weight_decay: float | None) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    made = torch_gd.create_optimizer(name, model, lr=0.5, weight_decay=weight_decay, clip=1.0)
    default = OPTIMIZERS[name][0]([torch.zeros(1, requires_grad=True)]).defaults["weight_decay"]
    expected = default if weight_decay is None else weight_decay
    assert [(len(g["params"]), g["weight_decay"], g["lr"]) for g in made.param_groups] == [
        (3, 0.0, 0.5),
        (1, expected, 0.5),
    ]
    assert made.clip == torch_gd.ClipByGlobalNorm(1.0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("adamv", [torch.zeros(1)]), ValueError, "Invalid name: 'adamv' is none of .*; did you mean 'adam"),
        (("unknown", [torch.zeros(1)]), ValueError, "Invalid name: 'unknown' is none of"),
        (([torch.zeros(1)], "adam"), TypeError, r"Invalid name: .*it comes first"),
    ],
)
def test_a_wrong_name_is_answered(arguments: tuple[Any, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        torch_gd.create_optimizer(*arguments)


README = Path(__file__).parent.parent / "README.md"
TABLE = [
    "| optimizer | paper | state, bytes an element | moved by a step, bytes an element | launches | torch's best |",
    "|---|---|---|---|---|---|",
]


def row_of(kind: type[torch_gd.FusedOptimizer], device: torch.device) -> str:
    """Return an optimizer's row in the README: for float32, with the defaults of its class."""
    p = torch.zeros(4, device=device, requires_grad=True)
    p.grad = torch.ones_like(p)
    optimizer = kind([p], lr=0.1)
    (batch,) = torch_gd.explain(optimizer).batches
    optimizer.step()
    state = sum(s.nbytes for s in optimizer.state[p].values() if s.shape == p.shape) / p.numel()
    (paper,) = re.findall(r"\(([A-Z][^();]*?\d{4})", inspect.getdoc(kind) or "")[:1]
    theirs = getattr(torch.optim, "SGD" if kind is torch_gd.NAG else kind.__name__, None)
    takes = [] if theirs is None else list(inspect.signature(theirs).parameters)
    best = next((name for name in ("fused", "foreach") if name in takes), "—")
    numbers = f"{state:.0f} | {batch.bytes_an_element:.0f} | {batch.launches}"
    return f"| `{kind.__name__}` | {paper} | {numbers} | {best} |"


def test_the_readme_has_every_optimizer_in_its_table(triton_device: torch.device) -> None:
    kinds = sorted({kind for kind, _ in OPTIMIZERS.values()}, key=lambda kind: kind.__name__.lower())
    table = "\n".join([*TABLE, *(row_of(kind, triton_device) for kind in kinds)])
    assert table in README.read_text(encoding="utf-8"), f"the README must have this table:\n{table}"
