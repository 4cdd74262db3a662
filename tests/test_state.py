"""State dicts equal torch's and load in both directions, and training then continues as if never interrupted."""

import copy
import inspect
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from catalogue import LAYERWISE, PLAIN_CASES, Case, torch_class
from torch import Tensor
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

import torch_gd
from benchmarks.algorithms import BY_LABEL

NAMES = ["SGD", "Adagrad", "RMSprop", "Adam", "AdamW", "Adadelta", "Adamax", "NAdam", "RAdam"]


def fresh(device: torch.device, layout: torch.memory_format = torch.contiguous_format) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = [(3, 4), (), (2, 3, 4, 5), (7,)]
    params = [torch.randn(shape, device=device) for shape in shapes]
    params[2] = params[2].to(memory_format=layout)
    return [p.requires_grad_() for p in params]


def train(optimizer: Optimizer, params: list[Tensor], steps: range) -> None:
    """Take steps whose gradients depend on the step number alone; the second parameter has none in the first three."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for i, p in enumerate(params):
            gradient = torch.randn(p.shape, generator=generator).to(p.device)
            p.grad = None if i == 1 and step < 3 else torch.empty_like(p).copy_(gradient)
        optimizer.step()


def train_as_torch_can(optimizer: Optimizer, params: list[Tensor], steps: range) -> None:
    """Train torch's optimizer; skip the test if it is an Adagrad that cannot make a missing state."""
    try:
        train(optimizer, params, steps)
    except KeyError:
        assert isinstance(optimizer, torch.optim.Adagrad)
        pytest.skip("this torch's Adagrad makes state in its constructor only")


def clones(params: list[Tensor]) -> list[Tensor]:
    return [p.detach().clone().requires_grad_() for p in params]


def assert_same(ours: list[Tensor], theirs: list[Tensor], steps: int) -> None:
    """Check that values differ by 4 ulps a step at most, for another order of operations; they stay below 8."""
    for p, q in zip(ours, theirs):
        torch.testing.assert_close(p, q, rtol=0, atol=steps * 4 * torch.finfo(torch.float32).eps * 8)


@pytest.mark.parametrize("name", NAMES)
def test_signature_and_defaults(name: str) -> None:
    ours = list(inspect.signature(getattr(torch_gd, name).__init__).parameters.values())
    theirs = list(inspect.signature(torch_class(name).__init__).parameters.values())
    assert [(p.name, p.kind, p.default) for p in ours[:-3]] == [(p.name, p.kind, p.default) for p in theirs]
    assert [(p.name, p.kind, p.default) for p in ours[-3:]] == [
        ("clip", inspect.Parameter.KEYWORD_ONLY, None),
        ("l1", inspect.Parameter.KEYWORD_ONLY, 0.0),
        ("precision", inspect.Parameter.KEYWORD_ONLY, None),
    ]
    params = [torch.zeros(2, requires_grad=True)]
    assert getattr(torch_gd, name)(params).defaults == torch_class(name)(params).defaults
    assert Optimizer in getattr(torch_gd, name).__mro__
    assert torch_class(name) not in getattr(torch_gd, name).__mro__


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
@pytest.mark.parametrize("fused", [None, True])
def test_state_dict_is_torchs(case: Case, fused: bool | None, device: torch.device) -> None:
    """Keys and their order, shapes, dtypes, devices and groups are torch's."""
    if fused and not case.takes_fused:
        pytest.skip("this optimizer takes no `fused`")
    if fused and case.name == "Adagrad" and not BY_LABEL["Adagrad"].has("fused", device):
        pytest.skip("this torch has no fused Adagrad for this device")
    more = {} if fused is None else {"fused": True}
    ours, theirs = fresh(device), fresh(device)
    optimizer = case.ours(ours, **more)
    # torch's fused SGD fails if some parameters have a momentum buffer and others have none yet.
    crashes = fused and "momentum_buffer" in optimizer.spec(optimizer.param_groups[0]).state_names  # type: ignore[attr-defined]
    reference = case.reference(theirs, **({} if crashes else more))
    for taken in (range(0), range(1), range(1, 5)):
        train(optimizer, ours, taken)
        train(reference, theirs, taken)
        mine, others = optimizer.state_dict(), reference.state_dict()
        if crashes:
            others["param_groups"][0]["fused"] = True
        assert mine["param_groups"] == others["param_groups"]
        assert list(map(list, mine["param_groups"])) == list(map(list, others["param_groups"]))
        assert set(mine["state"]) == set(others["state"])
        for i, state in others["state"].items():
            assert list(mine["state"][i]) == list(state)
            for key, value in state.items():
                found = mine["state"][i][key]
                assert (found.shape, found.dtype, found.device) == (value.shape, value.dtype, value.device), key


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
def test_checkpoints_travel_both_ways(case: Case, device: torch.device) -> None:
    """Training that goes from torch to ours and back ends where training with torch alone ends."""
    alone = fresh(device)
    reference = case.reference(alone, foreach=False)
    train(reference, alone, range(9))

    params = fresh(device)
    first = case.reference(params, foreach=False)
    train(first, params, range(3))
    second = case.ours(params)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.param_groups[0]["foreach"] = None
    train(second, params, range(3, 6))
    third = case.reference(params, foreach=False)
    third.load_state_dict(copy.deepcopy(second.state_dict()))
    train(third, params, range(6, 9))
    assert_same(params, alone, 9)


def through_file(state: object) -> object:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True, map_location="cpu")


@pytest.mark.parametrize("case", [*PLAIN_CASES, *LAYERWISE], ids=str)
@pytest.mark.parametrize("fused", [None, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels last"])
def test_saved_and_loaded_is_bitwise_the_same(
    case: Case, fused: bool | None, layout: torch.memory_format, device: torch.device
) -> None:
    if fused and not case.takes_fused:
        pytest.skip("this optimizer takes no `fused`")
    more = {} if fused is None else {"fused": True}
    never_stopped = fresh(device, layout)
    train(case.ours(never_stopped, **more), never_stopped, range(6))
    params = fresh(device, layout)
    before = case.ours(params, **more)
    train(before, params, range(3))
    params = [p.requires_grad_() for p in map(torch.clone, (p.detach() for p in params))]
    after = case.ours(params, **more)
    after.load_state_dict(through_file(before.state_dict()))
    train(after, params, range(3, 6))
    for p, q in zip(params, never_stopped):
        assert torch.equal(p, q)


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_copies_go_on_alone(case: Case, copied: Callable[[Optimizer], Optimizer], device: torch.device) -> None:
    """A copy trains its own parameters to the same values, and does not affect the original."""
    params = fresh(device)
    optimizer = case.ours(params)
    train(optimizer, params, range(3))
    twin = copied(optimizer)
    others = twin.param_groups[0]["params"]
    at_copy = clones(params)
    train(twin, others, range(3, 6))
    assert all(torch.equal(p, q) for p, q in zip(params, at_copy))
    train(optimizer, params, range(3, 6))
    assert all(torch.equal(p, q) for p, q in zip(params, others))


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
def test_group_added_in_mid_training(case: Case, device: torch.device) -> None:
    ours, theirs = fresh(device), fresh(device)
    optimizer, reference = case.ours(ours[:2]), case.reference(theirs[:2], foreach=False)
    train(optimizer, ours, range(3))
    train(reference, theirs, range(3))
    optimizer.add_param_group({"params": ours[2:], "lr": 0.05})
    reference.add_param_group({"params": theirs[2:], "lr": 0.05})
    train(optimizer, ours, range(3, 6))
    train_as_torch_can(reference, theirs, range(3, 6))
    assert_same(ours, theirs, 6)


def reset_one(optimizer: Optimizer, params: list[Tensor]) -> None:
    optimizer.state[params[0]] = {}


def reset_all(optimizer: Optimizer, params: list[Tensor]) -> None:
    optimizer.state.clear()


def move_data(optimizer: Optimizer, params: list[Tensor]) -> None:
    """Replace the data of parameters and states, as scripts do to move an optimizer to another device."""
    for p, state in optimizer.state.items():
        p.data = p.data.clone()
        for value in state.values():
            value.data = value.data.clone()


def move_parameters(optimizer: Optimizer, params: list[Tensor]) -> None:
    """Replace the data of the parameters only; states stay where they are."""
    for p in params:
        p.data = p.data.clone()


def clear_states(optimizer: Optimizer, params: list[Tensor]) -> None:
    for state in optimizer.state.values():
        state.clear()


def replace_state(optimizer: Optimizer, params: list[Tensor]) -> None:
    for state in optimizer.state.values():
        for key, value in state.items():
            state[key] = value * 2 if key != "step" else value + 5


def change_options(optimizer: Optimizer, params: list[Tensor]) -> None:
    for group in optimizer.param_groups:
        group["lr"] = 0.3 * group["lr"]
        group["weight_decay"] = 0.1
        group["maximize"] = True


def drop_parameter(optimizer: Optimizer, params: list[Tensor]) -> None:
    optimizer.param_groups[0]["params"].pop(0)


def transpose(optimizer: Optimizer, params: list[Tensor]) -> None:
    """Give a parameter other strides."""
    params[0].data = params[0].data.t().contiguous().t()


def transpose_states(optimizer: Optimizer, params: list[Tensor]) -> None:
    """Give the same state tensors other strides."""
    for state in optimizer.state.values():
        for value in state.values():
            if value is not None and value.dim() == 2:
                value.data = value.data.t().contiguous().t()


def overwrite_counters(optimizer: Optimizer, params: list[Tensor]) -> None:
    for state in optimizer.state.values():
        if "step" in state:
            state["step"].data = torch.full_like(state["step"], 7.0)


def replace_parameter(optimizer: Optimizer, params: list[Tensor]) -> None:
    """Put a new parameter in the place of an old one, which must not be written to any more."""
    new = params[0].detach().clone().requires_grad_()
    optimizer.param_groups[0]["params"][0] = new
    optimizer.state[new] = optimizer.state.pop(params[0], {})
    if not optimizer.state[new]:
        del optimizer.state[new]
    params.append(new)


def double(optimizer: Optimizer, params: list[Tensor]) -> None:
    """Convert parameters as model.double() does; states keep their dtype, which torch accepts for SGD and Adagrad."""
    for p in params:
        p.data = p.data.double()
        p.grad = None


def shrink(optimizer: Optimizer, params: list[Tensor]) -> None:
    """Drop elements of a parameter, whose address stays the same."""
    params[3].data = params[3].data[:5]
    for key, value in optimizer.state.get(params[3], {}).items():
        if value.dim() > 0:
            optimizer.state[params[3]][key] = value[:5].clone()


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
@pytest.mark.parametrize(
    "meddle",
    [
        reset_one,
        reset_all,
        move_data,
        move_parameters,
        clear_states,
        replace_state,
        change_options,
        drop_parameter,
        shrink,
        transpose,
        transpose_states,
        overwrite_counters,
        replace_parameter,
        double,
    ],
)
@pytest.mark.parametrize("fused", [None, True])
def test_what_scripts_do_to_a_running_optimizer(
    case: Case, meddle: Callable[[Optimizer, list[Tensor]], None], fused: bool | None, device: torch.device
) -> None:
    """After any change in mid-training, nothing that was cached before it is used."""
    if case.name == "Adagrad" and meddle in (reset_one, clear_states):
        pytest.skip("torch fails with it")
    if meddle is double and (fused or case.name not in ("SGD", "Adagrad")):
        pytest.skip("torch fails with it")
    if fused and not case.takes_fused:
        pytest.skip("this optimizer takes no `fused`")
    ours, theirs = fresh(device), fresh(device)
    optimizer = case.ours(ours, **({} if fused is None else {"fused": True}))
    reference = case.reference(theirs, foreach=False)
    train(optimizer, ours, range(4))
    train(reference, theirs, range(4))
    meddle(optimizer, ours)
    meddle(reference, theirs)
    train(optimizer, ours, range(4, 7))
    train_as_torch_can(reference, theirs, range(4, 7))
    assert_same(ours, theirs, 7)


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"clip": torch_gd.ClipByGlobalNorm(0.5, skip_nonfinite=True), "l1": 0.5},
        {"clip": torch_gd.ClipByValue(0.5)},
        {"clip": torch_gd.ClipAdaptive(), "l1": 0.5},
    ],
    ids=lambda more: str(more.get("clip")),
)
def test_distributed_checkpointing_makes_state_and_changes_nothing(
    case: Case, more: dict[str, Any], device: torch.device
) -> None:
    """To have every key before it loads, it fills gradients with zeros, sets lr to 0 and steps."""
    params = fresh(device)
    before = clones(params)
    optimizer = case.ours(params, **more)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step(closure=None)
    assert all(torch.equal(p, q) for p, q in zip(params, before))
    assert not optimizer.skipped_steps  # type: ignore[attr-defined]
    names = optimizer.spec(optimizer.param_groups[0]).state_names  # type: ignore[attr-defined]
    assert all(set(names) <= set(optimizer.state[p]) for p in params if names)


def through_distributed_checkpoint(
    model: torch.nn.Module, old: Optimizer, new: Optimizer, how: str, folder: Path | None, planner: Any = None
) -> None:
    """Load what an optimizer saves into another, by torch.distributed.checkpoint; with files if a folder is given."""
    kind = StateDictOptions(flatten_optimizer_state_dict="flat" in how, full_state_dict="whole" in how)
    saved = get_optimizer_state_dict(model, old, options=kind)
    new.zero_grad()  # or torch would not make the states to load into
    if folder is not None:
        dcp.save({"optimizer": saved}, checkpoint_id=folder, no_dist=True)
        saved = get_optimizer_state_dict(model, new, options=kind)
        dcp.load({"optimizer": saved}, checkpoint_id=folder, no_dist=True, planner=planner)
    set_optimizer_state_dict(model, new, saved, options=kind)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # one process
@pytest.mark.parametrize(
    "through", ["torch.save", "torch's optimizer", "pickle", "nested", "flat", "whole", "nested files", "flat files"]
)
def test_a_policy_and_its_count_survive(through: str, device: torch.device, tmp_path: Path) -> None:
    """They travel in the groups, which nobody drops: torch.distributed.checkpoint keeps no other keys."""
    model = torch.nn.Linear(2, 1, device=device)
    policy = torch_gd.ClipByGlobalNorm(0.5, skip_nonfinite=True)
    optimizer = torch_gd.AdamW(model.parameters(), clip=policy, l1=0.25)

    def step(optimizer: Optimizer, value: float) -> None:
        for p in model.parameters():
            p.grad = torch.full_like(p, value)
        optimizer.step()

    for value in (1.0, float("nan"), float("inf"), 2.0):
        step(optimizer, value)
    assert optimizer.skipped_steps is not None
    assert optimizer.skipped_steps.item() == 2
    resumed = torch_gd.AdamW(model.parameters(), clip=torch_gd.ClipByValue(1.0), l1=0.5)
    if through == "pickle":
        resumed = pickle.loads(pickle.dumps(optimizer))
        model.weight, model.bias = resumed.param_groups[0]["params"]
    elif through == "torch's optimizer":
        theirs = torch.optim.AdamW(model.parameters())
        theirs.load_state_dict(optimizer.state_dict())
        resumed.load_state_dict(theirs.state_dict())
    elif through != "torch.save":
        folder = tmp_path if "files" in through else None
        through_distributed_checkpoint(model, optimizer, resumed, through, folder)
    else:
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.clip == policy
    assert resumed.param_groups[0]["l1"] == 0.25
    assert resumed.skipped_steps is not None
    assert resumed.skipped_steps.item() == 2
    step(resumed, float("nan"))
    assert resumed.skipped_steps.item() == 3
    again = torch_gd.AdamW(model.parameters())  # which saves the policy that it has loaded
    again.load_state_dict(resumed.state_dict())
    resumed.load_state_dict(optimizer.state_dict())
    assert resumed.skipped_steps.item() == 2
    resumed.load_state_dict(again.state_dict())
    assert resumed.clip == policy
    assert resumed.skipped_steps.item() == 3


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # one process
@pytest.mark.parametrize("how", ["nested", "flat"])
def test_a_distributed_checkpoint_without_a_policy(how: str, tmp_path: Path) -> None:
    """Torch demands every option of the live groups; it can be told to leave out what a checkpoint lacks."""
    model = torch.nn.Linear(2, 1)
    theirs = torch.optim.AdamW(model.parameters(), lr=0.25)
    clipping = torch_gd.AdamW(model.parameters(), clip=2.0, l1=0.5)
    with pytest.raises(dcp.CheckpointException, match=r"param_groups.*\.(clip_policy|l1)"):
        through_distributed_checkpoint(model, theirs, clipping, how, tmp_path / "refused")
    leave_out = DefaultLoadPlanner(allow_partial_load=True)
    through_distributed_checkpoint(model, theirs, clipping, how, tmp_path / "left out", leave_out)
    group = clipping.param_groups[0]
    assert (clipping.clip, group["l1"], group["lr"]) == (torch_gd.ClipByGlobalNorm(2.0), 0.5, 0.25)
    through_distributed_checkpoint(model, clipping, theirs, how, tmp_path / "theirs")
    without = torch_gd.AdamW(model.parameters())
    through_distributed_checkpoint(model, clipping, without, how, tmp_path / "without")
    assert without.clip is None


def test_a_policy_stands_in_every_group() -> None:
    """And in no group of an optimizer without one, wherever that got the group from."""
    first, second = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    optimizer = torch_gd.SGD([first], clip=torch_gd.ClipByValue(0.5))
    optimizer.add_param_group({"params": [second]})
    saved = {"name": "ClipByValue", "clip_value": 0.5}
    assert [json.loads(group["clip_policy"]) for group in optimizer.param_groups] == [saved, saved]
    optimizer.clip = None
    assert [group["clip_policy"] for group in optimizer.param_groups] == [None, None]
    other = torch_gd.SGD(optimizer.param_groups)
    assert not any("clip_policy" in group for group in [*other.param_groups, *other.state_dict()["param_groups"]])


def test_what_a_checkpoint_lacks_stays_as_it_was_set() -> None:
    """An L1 penalty of the constructor or of a group survives a checkpoint of torch's, as the policy does."""
    first, second = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    groups = [{"params": [first]}, {"params": [second], "l1": 0.25}]
    theirs = torch.optim.SGD([{"params": group["params"]} for group in groups], lr=0.1)
    optimizer = torch_gd.SGD(groups, lr=0.5, l1=0.5, clip=2.0)
    optimizer.load_state_dict(theirs.state_dict())
    assert [(group["lr"], group["l1"]) for group in optimizer.param_groups] == [(0.1, 0.5), (0.1, 0.25)]
    assert optimizer.clip == torch_gd.ClipByGlobalNorm(2.0)


def test_a_pair_that_became_a_list_is_a_pair_again() -> None:
    """torch.distributed.checkpoint makes lists of tuples, which every step would have to look into."""
    optimizer = torch_gd.AdamW([torch.zeros(2, requires_grad=True)])
    saved = optimizer.state_dict()
    saved["param_groups"][0]["betas"] = [0.5, 0.75]
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.75)


def test_clipping_that_was_turned_off_stays_off_on_resume() -> None:
    p = torch.zeros(2, requires_grad=True)
    optimizer, resumed = torch_gd.SGD([p], clip=1.0), torch_gd.SGD([p], clip=1.0)
    optimizer.clip = None
    resumed.load_state_dict(optimizer.state_dict())
    assert resumed.clip is None
    pickled = pickle.loads(pickle.dumps(optimizer))
    assert pickled.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    assert "clip_policy" not in torch_gd.SGD([p]).state_dict()["param_groups"][0]


def test_hooks_see_the_state_dict_as_with_torch() -> None:
    """A hook may wrap a state dict, and another unwrap it, with a policy in it or not."""
    p = torch.zeros(2, requires_grad=True)
    for clip in (None, 1.0):
        optimizer = torch_gd.SGD([p], lr=0.5, clip=clip)
        optimizer.register_state_dict_post_hook(lambda _, state: {"wrapped": state})
        optimizer.register_load_state_dict_pre_hook(lambda _, state: state["wrapped"])
        saved = optimizer.state_dict()
        assert ("clip_policy" in saved["wrapped"]["param_groups"][0]) == (clip is not None)
        optimizer.clip, optimizer.param_groups[0]["lr"] = 2.0, 0.1
        optimizer.load_state_dict(saved)
        assert optimizer.clip == torch_gd.ClipByGlobalNorm(2.0 if clip is None else clip)
        assert optimizer.param_groups[0]["lr"] == 0.5
        assert "clip" not in optimizer.param_groups[0]


COUNTING = [case for case in PLAIN_CASES if case.name not in ("SGD", "NAG", "Lion")]


def hand_over_steps(optimizer: Optimizer, params: list[Tensor]) -> list[Tensor]:
    """Put counters of one's own into the states."""
    for p in params:
        optimizer.state[p]["step"] = torch.tensor(3.0)
    return [optimizer.state[p]["step"] for p in params]


def load_states(optimizer: Optimizer, params: list[Tensor]) -> list[Tensor]:
    """Load a checkpoint, whose very counters torch's optimizer advances from then on."""
    checkpoint = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(checkpoint)
    return [state["step"] for state in checkpoint["state"].values()]


def keep_steps(optimizer: Optimizer, params: list[Tensor]) -> list[Tensor]:
    """Hold the counters that the optimizer has made."""
    return [optimizer.state[p]["step"] for p in params]


@pytest.mark.parametrize("case", COUNTING, ids=str)
@pytest.mark.parametrize("obtain", [hand_over_steps, load_states, keep_steps])
def test_counters_advance_in_place(
    case: Case, obtain: Callable[[Optimizer, list[Tensor]], list[Tensor]], device: torch.device
) -> None:
    ours, theirs = fresh(device), fresh(device)
    optimizer, reference = case.ours(ours), case.reference(theirs, foreach=False)
    held = []
    for one, params in ((optimizer, ours), (reference, theirs)):
        train(one, params, range(3, 5))
        steps = obtain(one, params)
        train(one, params, range(5, 8))
        assert all(one.state[p]["step"] is step for p, step in zip(params, steps))
        held.append(list(map(float, steps)))
    assert held[0] == held[1]
    assert_same(ours, theirs, 8)


@pytest.mark.parametrize("case", COUNTING, ids=str)
def test_swapped_in_parameters_and_states_are_updated(case: Case, device: torch.device) -> None:
    """`torch.optim.swap_in_optimizer_params_and_state`: tensors of a state dict are updated in place."""
    if not hasattr(torch.optim, "swap_in_optimizer_params_and_state"):
        pytest.skip("not in this torch")
    checkpoints = []
    for make in (case.ours, case.reference):
        params = fresh(device)
        optimizer = make(params)
        train(optimizer, params, range(3, 5))
        others = clones(params)
        checkpoint = copy.deepcopy(optimizer.state_dict())
        for _ in range(2):
            with torch.optim.swap_in_optimizer_params_and_state(
                optimizer, {str(i): p for i, p in enumerate(others)}, checkpoint
            ):
                train(optimizer, others, range(5, 7))
        train(optimizer, params, range(5, 6))
        checkpoints.append((params, others, checkpoint["state"], optimizer.state_dict()["state"]))
    # 7 steps of a few roundings each, of values below 8.
    tolerance = 7 * 4 * 8 * torch.finfo(torch.float32).eps
    torch.testing.assert_close(checkpoints[0], checkpoints[1], rtol=tolerance, atol=tolerance)


def test_a_checkpoint_older_than_an_option_loads(device: torch.device) -> None:
    params = fresh(device)
    optimizer = torch_gd.Adam(params)
    train(optimizer, params, range(2))
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        for key in (
            "amsgrad",
            "maximize",
            "foreach",
            "capturable",
            "differentiable",
            "fused",
            "decoupled_weight_decay",
        ):
            del group[key]
    for values in state["state"].values():
        values["step"] = float(values["step"])
    again = torch_gd.Adam(params)
    again.load_state_dict(copy.deepcopy(state))
    train(again, params, range(2, 4))
    assert again.state[params[0]]["step"].item() == 4


def test_adamw_stays_adamw_whatever_it_loads() -> None:
    params = fresh(torch.device("cpu"))
    optimizer = torch_gd.AdamW(params)
    optimizer.load_state_dict(torch_gd.Adam(params).state_dict())
    assert optimizer.param_groups[0]["decoupled_weight_decay"] is True


def test_default_dtype_float64_sets_the_counters_as_torch_does(device: torch.device) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        ours = [torch.ones(3, requires_grad=True, device=device)]
        theirs = clones(ours)
        optimizer, reference = torch_gd.AdamW(ours), torch.optim.AdamW(theirs, foreach=False)
        for _ in range(3):
            ours[0].grad, theirs[0].grad = torch.ones_like(ours[0]), torch.ones_like(ours[0])
            optimizer.step()
            reference.step()
        assert optimizer.state[ours[0]]["step"].dtype == reference.state[theirs[0]]["step"].dtype == torch.float64
        torch.testing.assert_close(ours[0], theirs[0], rtol=1e-13, atol=0)
    finally:
        torch.set_default_dtype(torch.float32)
