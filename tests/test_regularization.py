"""Which parameters get weight decay, and the proximal step of L1."""

from typing import Any

import pytest
import torch
from torch import nn

import torch_gd
from torch_gd import param_groups_weight_decay, soft_threshold_


@pytest.fixture(autouse=True)
def torchs_path(torch_path: None) -> None:
    """Leave everything to torch: interpreted kernels are not what is tested here."""


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.conv = nn.Conv1d(4, 4, 3)
        self.norm = nn.BatchNorm1d(4)
        self.layer_norm = nn.LayerNorm([4, 4])  # its gain has two dimensions
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.head = nn.Linear(4, 5)
        self.head.weight = self.embedding.weight
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def names(groups: list[dict[str, object]]) -> dict[float, list[str]]:
    """Return the names of the parameters in each group, by weight decay."""
    return {group["weight_decay"]: [name for name, _ in group["params"]] for group in groups}


def test_what_decays_and_what_does_not() -> None:
    assert names(param_groups_weight_decay(Network(), 0.1)) == {
        0.0: ["scale", "conv.bias", "norm.weight", "norm.bias", "layer_norm.weight", "layer_norm.bias", "head.bias"],
        0.1: ["embedding.weight", "conv.weight"],
    }


@pytest.mark.parametrize("listed", ["embedding.weight", "head.weight"])
def test_a_listed_parameter_does_not_decay_by_any_of_its_names(listed: str) -> None:
    groups = names(param_groups_weight_decay(Network(), 0.1, [listed]))
    assert groups[0.1] == ["conv.weight"]
    assert "embedding.weight" in groups[0.0]


def test_named_parameters_are_accepted() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    expected = {0.0: ["0.bias", "1.weight", "1.bias"], 0.1: ["0.weight"]}
    assert names(param_groups_weight_decay(network.named_parameters(), 0.1)) == expected
    assert names(param_groups_weight_decay(network, 0.1)) == expected


def test_each_parameter_once_and_none_forgotten() -> None:
    network = Network()
    members = [p for group in param_groups_weight_decay(network, 0.1) for _, p in group["params"]]
    assert len(members) == len(set(members))
    assert set(members) == {p for p in network.parameters() if p.requires_grad}


@pytest.mark.parametrize("module", [torch_gd, torch.optim])
def test_an_optimizer_takes_the_groups(module: object) -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    optimizer = module.AdamW(param_groups_weight_decay(network, 0.5), lr=0.1)
    for p in network.parameters():
        p.grad = torch.zeros_like(p)
    before = [p.detach().clone() for p in network.parameters()]
    optimizer.step()
    moved = [not torch.equal(p, b) for p, b in zip(network.parameters(), before)]
    assert moved == [True, False, False, False]
    assert optimizer.param_groups[1]["param_names"] == ["0.weight"]


def test_empty_groups_are_left_out() -> None:
    assert len(param_groups_weight_decay(nn.LayerNorm(4), 0.1)) == 1
    assert len(param_groups_weight_decay(nn.Linear(4, 4, bias=False), 0.1)) == 1


MODEL = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("model", "decay", "listed", "kind", "named"),
    [
        *((MODEL, decay, [], ValueError, "Invalid weight_decay") for decay in (-0.1, float("nan"), float("inf"))),
        *((MODEL, decay, [], TypeError, "Invalid weight_decay") for decay in ("0.1", None, True, [0.1])),
        (MODEL, 0.1, ["wieght"], ValueError, "Invalid no_weight_decay_list: .*wieght"),
        *((MODEL, 0.1, listed, TypeError, "Invalid no_weight_decay_list: ") for listed in (None, "bias", [1], 5)),
        (nn.ReLU(), 0.1, [], ValueError, "Invalid model: it has no parameter"),
        (iter([]), 0.1, [], ValueError, "Invalid model: .* a generator is empty once it has been used"),
        *(
            (model, 0.1, [], TypeError, "Invalid model: .* must be a module, or .name, parameter. pairs")
            for model in (
                None,
                nn.Linear,
                "ab",
                [("a", None)],
                [(1, torch.ones(2, 2))],
                dict(MODEL.named_parameters()),
                torch.ones(2),
            )
        ),
        (MODEL.parameters(), 0.1, [], TypeError, "Invalid model: a tensor of shape .2, 2. .* is not a named parameter"),
        (list(MODEL.parameters()), 0.1, [], TypeError, "Invalid model: .* is not a named parameter"),
    ],
)
def test_bad_arguments_are_named(model: Any, decay: Any, listed: Any, kind: type[Exception], named: str) -> None:
    with pytest.raises(kind, match=named):
        param_groups_weight_decay(model, decay, listed)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_soft_threshold(dtype: torch.dtype) -> None:
    p = nn.Parameter(torch.tensor([-2.0, -0.5, -0.25, 0.0, 0.25, 0.5, 2.0], dtype=dtype))
    soft_threshold_([p], 0.5)
    assert p.tolist() == [-1.5, 0.0, 0.0, 0.0, 0.0, 0.0, 1.5]
    soft_threshold_([p], 0.0)
    assert p.tolist() == [-1.5, 0.0, 0.0, 0.0, 0.0, 0.0, 1.5]


def test_proximal_steps_find_the_minimum() -> None:
    """The minimum of (w - c)² / 2 + λ |w| is c after a soft threshold of λ."""
    c = torch.tensor([-1.0, -0.1, 0.2, 3.0])
    w = nn.Parameter(torch.ones(4))
    optimizer = torch_gd.SGD([w], lr=0.5)
    for _ in range(60):  # each halves the distance: 2^-60 is far below float32's 2^-24
        w.grad = w.detach() - c
        optimizer.step()
        soft_threshold_([w], 0.5 * 0.25)
    torch.testing.assert_close(w.detach(), torch.tensor([-0.75, 0.0, 0.0, 2.75]), rtol=2**-22, atol=0)


@pytest.mark.parametrize("amount", [-0.1, float("nan")])
def test_bad_amount(amount: float) -> None:
    with pytest.raises(ValueError, match="amount"):
        soft_threshold_([torch.ones(1)], amount)
