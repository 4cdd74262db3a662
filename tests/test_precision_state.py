"""Checkpoints and conversion of optimizers with a precision: states keep their dtypes, and weights all their bits."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import kernels_device
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

import torch_gd
from torch_gd import Precision
from torch_gd._engine.remainders import CHECKSUM, checksum
from torch_gd.triton_kernels.runtime import Runtime, use

pytestmark = pytest.mark.usefixtures("torch_path")  # where interpreted kernels would take seconds

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
SMALLEST = Precision("bf16+8", "8bit", min_elements=32)
EXACT = Precision("bf16+16", "float32")


def fresh(dtype: torch.dtype, device: torch.device | str = "cpu") -> list[Tensor]:
    torch.manual_seed(0)
    shapes = ((4, 32), (5,))  # the second is below `min_elements`, and does not divide into groups
    return [torch.randn(shape).to(device, dtype).requires_grad_() for shape in shapes]


def copies(params: list[Tensor]) -> list[Tensor]:
    return [p.detach().clone().requires_grad_() for p in params]


def train(optimizer: Optimizer, steps: range) -> None:
    """Take steps whose gradients depend on the number of the step alone, and fit into bfloat16."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for p in optimizer.param_groups[0]["params"]:
            p.grad = torch.randn(p.shape, generator=generator).to(BF16).to(p.device, p.dtype)
        optimizer.step()


def through_file(state: object) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_equal(ours: Optimizer, others: Optimizer) -> None:
    """Check that parameters and states are equal bit for bit, dtypes included."""
    for p, q in zip(ours.param_groups[0]["params"], others.param_groups[0]["params"]):
        torch.testing.assert_close(p, q, rtol=0, atol=0)
        assert list(ours.state[p]) == list(others.state[q])
        for key, value in ours.state[p].items():
            torch.testing.assert_close(value, others.state[q][key], rtol=0, atol=0, msg=key)


def into_new(optimizer: Any, params: list[Tensor], **options: Any) -> Any:
    """Return an optimizer of the same kind, over copies of its parameters, that has loaded its checkpoint."""
    new = type(optimizer)(copies(params), **options)
    new.load_state_dict(through_file(optimizer.state_dict()))
    return new


def copied(optimizer: Any, params: list[Tensor], **options: Any) -> Any:
    return copy.deepcopy(optimizer)


def pickled(optimizer: Any, params: list[Tensor], **options: Any) -> Any:
    return pickle.loads(pickle.dumps(optimizer))


STORED: list[tuple[str, torch.dtype, Precision, dict[str, Any]]] = [
    ("AdamW", BF16, SMALLEST, {}),
    ("AdamW", BF16, EXACT, {"amsgrad": True}),
    ("AdamW", F16, Precision("stochastic", "bf16"), {}),
    ("AdamW", F32, Precision(None, "8bit", min_elements=32), {}),
    ("SGD", BF16, Precision("bf16+8", "bf16", min_elements=32), {"momentum": 0.9, "dampening": 0.5}),
    ("NAdam", BF16, SMALLEST, {}),
]


@pytest.mark.parametrize("way", [into_new, copied, pickled])
@pytest.mark.parametrize(("name", "dtype", "precision", "options"), STORED)
def test_training_goes_on(
    name: str, dtype: torch.dtype, precision: Precision, options: dict[str, Any], way: Callable[..., Any]
) -> None:
    """A checkpoint, a copy and a pickle go on bit for bit, noise included."""
    params = fresh(dtype)
    optimizer = getattr(torch_gd, name)(params, lr=0.01, precision=precision, **options)
    train(optimizer, range(3))
    other = way(optimizer, params, lr=9.0, precision=precision, **options)
    train(optimizer, range(3, 5))
    train(other, range(3, 5))
    assert_equal(optimizer, other)


def test_kernels_go_on() -> None:
    """On our kernels, where a remainder is reset on the device; the precision comes with the checkpoint."""
    with use(Runtime()):
        params = fresh(BF16, kernels_device())
        optimizer = torch_gd.SGD(params, lr=0.01, momentum=0.9, precision=SMALLEST)
        train(optimizer, range(2))
        other = into_new(optimizer, params)
        for one in (optimizer, other):
            train(one, range(2, 3))
        assert_equal(optimizer, other)


def test_moments_of_torch_are_encoded_from_float32() -> None:
    """Moments that torch's optimizer saved in float32 are not rounded to the parameter's bfloat16 first."""
    masters = fresh(F32)
    reference = torch.optim.AdamW(masters, lr=0.01)
    train(reference, range(3))
    saved = through_file(reference.state_dict())
    loaded, by_hand, rounded = (torch_gd.AdamW(fresh(BF16), lr=0.01, precision=SMALLEST) for _ in range(3))
    loaded.load_state_dict(copy.deepcopy(saved))
    for optimizer, dtype in ((by_hand, F32), (rounded, BF16)):
        for p, state in zip(optimizer.param_groups[0]["params"], saved["state"].values()):
            # As the pair "rounded" shows, it would make a difference.
            optimizer.state[p] = {
                key: x.clone() if key == "step" else x.to(dtype, copy=True) for key, x in state.items()
            }
    assert loaded.state[loaded.param_groups[0]["params"][0]]["exp_avg"].dtype == F32
    for optimizer in (loaded, by_hand, rounded):
        train(optimizer, range(3, 4))
    assert_equal(loaded, by_hand)
    with pytest.raises(AssertionError):
        assert_equal(loaded, rounded)


@pytest.mark.parametrize(
    "change", [nn.Module.half, nn.Module.bfloat16, nn.Module.double, lambda model: model.to("cpu")]
)
def test_states_outlive_a_change_of_the_model(change: Callable[[nn.Module], object]) -> None:
    """Codes stay codes when the model changes its dtype, and when a checkpoint from before is loaded after."""
    torch.manual_seed(0)
    model = nn.Linear(32, 4, bias=False)
    optimizer = torch_gd.AdamW(model.parameters(), precision=Precision(states="8bit", min_elements=32))
    train(optimizer, range(2))
    saved, before = through_file(optimizer.state_dict()), copy.deepcopy(optimizer.state[model.weight])
    change(model)
    for load in (False, True):
        if load:
            optimizer.load_state_dict(saved)
        for key, value in optimizer.state[model.weight].items():
            torch.testing.assert_close(value, before[key], rtol=0, atol=0)
    if model.weight.dtype != torch.float64:  # which is stored plainly, and whose states are refused then
        train(optimizer, range(2, 3))
        assert optimizer.state[model.weight]["exp_avg_code"].dtype == torch.int8


def test_hooks_of_the_user_come_first_and_last() -> None:
    """A pre-hook's values are those that are loaded, and a post-hook finds them in their own dtypes."""
    params, found = fresh(BF16), []
    optimizer = torch_gd.AdamW(params, precision=SMALLEST)
    train(optimizer, range(1))

    def ones(_: Optimizer, state_dict: dict[str, Any]) -> None:
        state_dict["state"] = {
            i: {**state, "exp_avg_code": torch.ones(4, 32, dtype=torch.int8)}
            for i, state in state_dict["state"].items()
        }

    optimizer.register_load_state_dict_pre_hook(ones)
    optimizer.register_load_state_dict_post_hook(lambda one: found.append(one.state[params[0]]["exp_avg_code"]))
    optimizer.load_state_dict(optimizer.state_dict())
    torch.testing.assert_close(found, [torch.ones(4, 32, dtype=torch.int8)])
    with pytest.raises(ValueError, match="different number of parameter groups"):
        optimizer.load_state_dict({**optimizer.state_dict(), "param_groups": []})
    assert len(optimizer._optimizer_load_state_dict_pre_hooks) == 1  # ours has been taken away, though it failed


def test_torch_refuses_codes() -> None:
    """torch's optimizer does not take codes for moments: their names are not its own."""
    params = fresh(BF16)
    optimizer = torch_gd.AdamW(params, precision=SMALLEST)
    train(optimizer, range(1))
    theirs = torch.optim.AdamW(params)
    theirs.load_state_dict(optimizer.state_dict())
    with pytest.raises(KeyError, match="exp_avg"):
        train(theirs, range(1, 2))


FLOAT32_NAMES: list[tuple[str, dict[str, Any], list[str]]] = [
    ("AdamW", {"amsgrad": True}, ["step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"]),
    ("SGD", {"momentum": 0.9, "dampening": 0.5}, ["momentum_buffer"]),
    ("SGD", {}, []),
    ("RMSprop", {"momentum": 0.9}, ["step", "square_avg", "momentum_buffer"]),
    ("NAdam", {}, ["step", "mu_product", "exp_avg", "exp_avg_sq"]),
    ("Adagrad", {"initial_accumulator_value": 0.5}, ["step", "sum"]),
]


@pytest.mark.parametrize(("name", "options", "names"), FLOAT32_NAMES)
def test_torch_goes_on_in_float32(name: str, options: dict[str, Any], names: list[str]) -> None:
    """float32 weights are lowered, trained, given back to torch, and end where torch ends with them alone."""
    eps = {} if name == "SGD" else {"eps": 1e-3}
    alone = fresh(F32)
    reference = getattr(torch.optim, name)(alone, lr=0.01, **options, **eps)
    train(reference, range(6))

    params = fresh(F32)
    optimizer = getattr(torch_gd, name)(params, lr=0.01, precision=EXACT, **options, **eps)
    optimizer.lower_weights()
    for steps in (range(3), range(3, 6)):
        saved, weights = optimizer.to_float32_state_dict(), optimizer.float32_weights()
        assert "precision" not in saved["param_groups"][0]
        for state in saved["state"].values():
            assert {*state} == {*names} or steps.start == 0
            assert {value.dtype for value in state.values()} == {F32}
        params = [weights[p].requires_grad_() for p in params]
        theirs = getattr(torch.optim, name)(params, lr=0.01, **options, **eps)
        theirs.load_state_dict(saved)
        train(theirs if steps.start else optimizer, steps)
        if not steps.start:
            params = optimizer.param_groups[0]["params"]
    for p, q in zip(params, alone):
        # 4 ulps a step for another order of operations, as between ours and torch's; values stay below 8.
        torch.testing.assert_close(p, q, rtol=0, atol=6 * 4 * torch.finfo(F32).eps * 8)


def test_a_first_step_by_torch_after_lowering() -> None:
    """A momentum buffer of zeros that has taken no step is none yet in torch, which does not dampen the first one."""
    params = fresh(F32)
    optimizer = torch_gd.SGD(params, momentum=0.9, dampening=0.5, precision=EXACT)
    optimizer.lower_weights()
    assert optimizer.to_float32_state_dict()["state"] == {}


def test_decoded_states_are_what_a_step_computes_with() -> None:
    """A state dict in float32 loads into an optimizer with a precision, and is encoded into the same codes."""
    optimizer = torch_gd.AdamW(params := fresh(BF16), precision=SMALLEST)
    train(optimizer, range(2))
    back = torch_gd.AdamW(copies(params), precision=SMALLEST)
    back.load_state_dict(optimizer.to_float32_state_dict())
    assert back.param_groups[0]["precision"] == SMALLEST.text
    again = back.to_float32_state_dict()["state"]
    for i, state in optimizer.to_float32_state_dict()["state"].items():
        torch.testing.assert_close(again[i], dict(state), rtol=0, atol=0)


LOWERED: list[tuple[str, tuple[str, ...], float]] = [
    ("bf16+16", (), 0.0),
    ("bf16+8", (), 2.0**-16),  # 16 bits of significand: half of the last one
    ("stochastic", (), 2.0**-8),  # nearest: half of the last of 8 bits
    ("bf16+8", ("*0",), 0.0),
    ("stochastic", ("*0",), 0.0),
]


@pytest.mark.parametrize(("weights", "keep", "bound"), LOWERED)
def test_lower_weights(weights: str, keep: tuple[str, ...], bound: float) -> None:
    """Low bits go into the state; all of those of a small tensor, and of one that is to be kept."""
    params = fresh(F32)
    params[0].grad = torch.ones_like(params[0])
    before = [p.detach().clone() for p in params]
    precision = Precision(weights, "8bit", min_elements=32, keep=keep)
    optimizer = torch_gd.AdamW([(f"p{i}", p) for i, p in enumerate(params)], precision=precision)
    optimizer.lower_weights()
    assert [p.dtype for p in params] == [BF16, BF16]
    assert params[0].grad is None
    assert params[0].is_leaf
    exact = optimizer.float32_weights()
    error = (exact[params[0]] - before[0]).abs() / before[0].abs()
    assert error.max() <= bound
    assert ("remainder" in optimizer.state[params[0]]) == (weights != "stochastic" or bool(keep))
    assert torch.equal(exact[params[1]], before[1])
    (params[0].sum() * 2).backward()
    assert params[0].grad.dtype == BF16
    optimizer.step()
    optimizer.lower_weights()  # finds nothing more to do
    assert optimizer.state[params[0]]["step"] == 1


def test_lowering_in_mid_training_keeps_states() -> None:
    """What a float32 optimizer has trained goes on in lower precision: step and moments stay."""
    params = fresh(F32)
    optimizer = torch_gd.AdamW(params, lr=0.01)
    train(optimizer, range(3))
    moment = optimizer.state[params[0]]["exp_avg"].clone()
    optimizer.param_groups[0]["precision"] = EXACT.text
    optimizer.lower_weights()
    assert torch.equal(optimizer.state[params[0]]["exp_avg"], moment)
    assert optimizer.state[params[0]]["step"] == 3


def subclass(params: list[Tensor]) -> list[Tensor]:
    return [params[0], nn.Parameter(params[1].detach().as_subclass(type("Mine", (Tensor,), {})))]


def views(params: list[Tensor]) -> list[Tensor]:
    flat = torch.ones(128)
    return [params[1], *(half.requires_grad_() for half in (flat[:64], flat[60:]))]


@pytest.mark.parametrize(("make", "why"), [(subclass, "is a Mine"), (views, "parameter 1 .* shares memory")])
def test_what_cannot_be_lowered(make: Callable[[list[Tensor]], list[Tensor]], why: str) -> None:
    params = make(fresh(F32))
    optimizer = torch_gd.SGD(params, precision=EXACT)
    with pytest.raises(RuntimeError, match=f"SGD: .*{why}"):
        optimizer.lower_weights()
    assert {p.dtype for p in params} == {F32}
    assert not optimizer.state


Change = Callable[[Tensor], object]
CHANGES: dict[str, tuple[Change, bool]] = {
    "the same again": (lambda p: p.copy_(p.clone()), True),
    "in new memory": (lambda p: setattr(p, "data", p.clone()), True),
    "one bit": (lambda p: p.view(torch.int16)[1, 2].bitwise_xor_(1), False),
    "a mask": (lambda p: p.mul_(torch.arange(32) % 2), False),
    "zeros": (lambda p: p.zero_(), False),
    "another order": (lambda p: p.copy_(p.flip(0)), False),
    "behind autograd's back": (lambda p: setattr(p, "data", p + 1), False),
}


@pytest.mark.parametrize("first", ["model", "optimizer", "optimizer, and passed on"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_remainder_is_reset_if_its_weight_is_another(change: str, first: str) -> None:
    """What counts is content at the first step, in whichever order model and optimizer are loaded."""
    alter, fits = CHANGES[change]
    params = fresh(BF16)
    optimizer = torch_gd.SGD(params, lr=0.01, precision=SMALLEST)
    train(optimizer, range(2))
    saved, loaded = through_file(optimizer.state_dict()), fresh(BF16)
    other = torch_gd.SGD(loaded, lr=0.01, precision=SMALLEST)

    def load_model() -> None:
        with torch.no_grad():
            for p, q in zip(loaded, params):
                p.copy_(q)
            alter(loaded[0])

    if first == "model":
        load_model()
    other.load_state_dict(saved)
    if "passed on" in first:  # unused, so that the weight is still to come
        other.load_state_dict(other.state_dict())
    if first != "model":
        load_model()
    kept = other.float32_weights()[loaded[0]]
    expected = kept if fits else loaded[0].detach().float()
    assert torch.equal(kept, expected)
    assert torch.equal(kept, loaded[0].detach().float()) != fits
    for p in loaded:
        p.grad = torch.zeros_like(p)
    other.step()
    after = other.float32_weights()
    assert torch.equal(after[loaded[0]], expected)
    assert torch.equal(after[loaded[1]], optimizer.float32_weights()[params[1]])
    assert CHECKSUM not in other.state[loaded[0]]


def test_a_change_in_mid_training_can_be_announced() -> None:
    """Without a checkpoint in between, nothing is noticed; loading one's own state dict has it noticed."""
    for announced in (False, True):
        params = fresh(F32)
        optimizer = torch_gd.SGD(params, lr=0.0, precision=EXACT)
        optimizer.lower_weights()
        if announced:
            optimizer.load_state_dict(optimizer.state_dict())
        before = params[0].detach().clone()
        params[0].data.mul_(2)
        train(optimizer, range(1))
        exact = optimizer.float32_weights()
        assert torch.equal(exact[params[0]], before.float() * 2) == announced
        assert torch.equal(exact[params[1]], fresh(F32)[1])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_checksums_are_the_same_in_pieces(layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(3, 5, 7, 2).to(BF16)
    remainder = torch.randint(-128, 128, weight.shape, dtype=torch.int8)
    whole = checksum(weight, remainder)
    monkeypatch.setattr("torch_gd._engine.remainders._CHUNK", 11)
    assert checksum(weight.to(memory_format=layout), remainder) == whole


@pytest.mark.parametrize("flat", [False, True])
def test_distributed_checkpoints_of_one_process(flat: bool) -> None:
    """States come back in their dtypes; only those that are not flattened carry checksums."""
    torch.manual_seed(0)
    models = [nn.Linear(32, 4).to(BF16) for _ in range(2)]
    optimizers = [torch_gd.AdamW(model.parameters(), lr=0.01, precision=SMALLEST) for model in models]
    train(optimizers[0], range(2))
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    saved = through_file(get_optimizer_state_dict(models[0], optimizers[0], options=options))
    set_optimizer_state_dict(models[1], optimizers[1], saved, options=options)
    states = [optimizers[i].state[models[i].weight] for i in range(2)]
    assert (CHECKSUM in states[1]) == (not flat)
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=0, atol=0)
    models[1].load_state_dict(models[0].state_dict())
    for optimizer in optimizers:
        train(optimizer, range(2, 4))
    assert_equal(*optimizers)
