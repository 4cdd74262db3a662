"""Low-precision weights and states of a model that is spread over ranks: bit for bit what one process has."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from sharded import full, placement
from sharded_checkpoints import shared_folder
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import torch_gd
from torch_gd import Precision
from torch_gd._engine.shards import first_element

Case = Callable[[], Any]
SMALLEST = Precision("bf16+8", "8bit", min_elements=8)
STEPS = 3


def new_model(rows: int = 4, dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    """Return a layer whose weight and bias divide into groups of 32, and one too small for them."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, rows), nn.Linear(rows, 1)).to(dtype)


def sharded(model: nn.Module) -> nn.Module:
    """Cut each layer's rows by FSDP2."""
    for layer in model:
        fully_shard(layer)
    return fully_shard(model)


def optimizer_of(model: nn.Module, lr: float = 0.01) -> torch_gd.AdamW:
    return torch_gd.AdamW(model.parameters(), lr=lr, precision=SMALLEST)


def train(model: nn.Module, optimizer: torch_gd.AdamW, steps: range) -> None:
    """Take steps on the same batch on all ranks, the mean of whose gradients is then exactly that of one."""
    for step in steps:
        optimizer.zero_grad()
        x = torch.randn(2, 64, generator=torch.Generator().manual_seed(step)).bfloat16()
        model(x).square().sum().backward()
        optimizer.step()


def whole_of(tensor: Tensor) -> Tensor:
    """Return the whole of a tensor; neither gloo nor NCCL gathers 16-bit integers."""
    return full(tensor.int() if tensor.dtype == torch.int16 else tensor).to(tensor.dtype)


def found_in(model: nn.Module, optimizer: torch_gd.AdamW) -> dict[str, Tensor]:
    """Return the whole of each parameter and state; every rank must call it."""
    found = {}
    for name, p in model.named_parameters():
        found[name] = full(p)
        found.update({f"{name} {key}": whole_of(value) for key, value in optimizer.state[p].items()})
    return found


def assert_equal(ours: dict[str, Tensor], others: dict[str, Tensor]) -> None:
    assert list(ours) == list(others)
    for key, value in ours.items():
        torch.testing.assert_close(value, others[key], rtol=0, atol=0, msg=lambda text, key=key: f"{key}: {text}")


def trains_as_one_process() -> None:
    """Sharded along rows, noise included; scales and remainders are placed as their parameters."""
    models = sharded(new_model()), new_model()
    optimizers = [optimizer_of(model) for model in models]
    for model, optimizer in zip(models, optimizers):
        train(model, optimizer, range(STEPS))
    spread, whole = map(found_in, models, optimizers)
    exact = [
        {name: full(one.float32_weights()[p]) for name, p in model.named_parameters()}
        for model, one in zip(models, optimizers)
    ]
    decoded = [one.to_float32_state_dict()["state"] for one in optimizers]
    moments = [full(state[0]["exp_avg"]) for state in decoded]
    assert_equal(spread, whole)
    assert_equal(*exact)
    assert moments[0].dtype == torch.float32
    assert torch.equal(*moments)
    weight = models[0][0].weight
    state = optimizers[0].state[weight]
    assert state["exp_avg_scale"].shape == (4, 2)
    for key in ("remainder", "exp_avg_code", "exp_avg_scale", "exp_avg_sq_scale"):
        assert placement(state[key]) == placement(weight), key


def misplaced_gradients() -> None:
    """Gradients that are placed otherwise are received before they are made float32, measured and clipped."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    torch.manual_seed(0)
    whole = torch.randn(64, 64).bfloat16()
    grad = torch.randn(64, 64).bfloat16()
    for clip in (None, 1.0):
        p, q = nn.Parameter(distribute_tensor(whole, mesh, [Shard(0)])), nn.Parameter(whole.clone())
        ours, other = (torch_gd.AdamW([one], lr=0.1, precision=14, clip=clip) for one in (p, q))
        for _ in range(STEPS):
            p.grad, q.grad = distribute_tensor(grad, mesh, [Replicate()]), grad.clone()
            ours.step()
            other.step()
        found = full(ours.float32_weights()[p])
        # The norm is summed in another order, which moves the coefficient by an ulp, and AdamW's step by 4 at most.
        rounding = 0.0 if clip is None else STEPS * 0.1 * 4 * 2.0**-23 + 2.0**-21  # and the weights, up to 4, by theirs
        torch.testing.assert_close(found, other.float32_weights()[q], rtol=0, atol=rounding)


def uneven_cut() -> None:
    """A vector whose shards are no whole groups keeps full precision on all ranks, and `explain` says so."""
    model = nn.Module()
    model.cut, model.whole = nn.Parameter(torch.ones(96).bfloat16()), nn.Parameter(torch.ones(128).bfloat16())
    fully_shard(model)
    optimizer = optimizer_of(model)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    table = str(torch_gd.explain(optimizer))
    assert "full precision: cut unevenly into groups of 32" in table, table
    assert "exp_avg" in optimizer.state[model.cut]
    assert optimizer.state[model.whole]["exp_avg_scale"].to_local().shape == (2,)


def saved(folder: Any, model: nn.Module, optimizer: torch_gd.AdamW, no_dist: bool) -> None:
    state = {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizer)}
    dcp.save(state, checkpoint_id=folder, no_dist=no_dist)


def loaded(folder: Any, model: nn.Module, no_dist: bool) -> torch_gd.AdamW:
    optimizer = optimizer_of(model, lr=9.0)
    state = {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizer)}
    dcp.load(state, checkpoint_id=folder, no_dist=no_dist)
    model.load_state_dict(state["model"])
    set_optimizer_state_dict(model, optimizer, state["optimizer"])
    return optimizer


def checkpoints_travel() -> None:
    """Saved by two ranks, gone on with by one, and then by two again: dtypes and values stay."""
    reference = new_model()
    train(reference, expected := optimizer_of(reference), range(3))
    with shared_folder() as folder:
        model = sharded(new_model())
        train(model, optimizer := optimizer_of(model), range(1))
        saved(folder / "two", model, optimizer, no_dist=False)
        dist.barrier()
        if dist.get_rank() == 0:
            alone = new_model()
            train(alone, one := loaded(folder / "two", alone, no_dist=True), range(1, 2))
            saved(folder / "one", alone, one, no_dist=True)
        dist.barrier()
        model = sharded(new_model())
        optimizer = loaded(folder / "one", model, no_dist=False)
        dist.barrier()
    train(model, optimizer, range(2, 3))
    assert_equal(found_in(model, optimizer), found_in(reference, expected))


def whole_checkpoints_travel() -> None:
    """Gathered by all ranks, gone on with by one process, given back to all; remainders of 16 bits among them."""
    spread, reference = sharded(new_model()), new_model()
    train(reference, expected := optimizer_of(reference), range(3))
    train(spread, optimizer := optimizer_of(spread), range(1))
    model = new_model()
    one, all_ranks = optimizer_of(model, lr=9.0), StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = [get_state_dict(spread, optimizer, options=all_ranks)]
    dist.broadcast_object_list(state)
    set_state_dict(model, one, model_state_dict=state[0][0], optim_state_dict=state[0][1])
    train(model, one, range(1, 2))
    spread = sharded(new_model())
    optimizer = optimizer_of(spread, lr=9.0)
    states = get_state_dict(model, one)
    from_one = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_state_dict(spread, optimizer, model_state_dict=states[0], optim_state_dict=states[1], options=from_one)
    train(spread, optimizer, range(2, 3))
    assert_equal(found_in(spread, optimizer), found_in(reference, expected))


def refuses_to_lower() -> None:
    """Shards cannot be converted in place; the message says what to do."""
    model = sharded(new_model(dtype=torch.float32))
    optimizer = optimizer_of(model)
    try:
        optimizer.lower_weights()
        message = ""
    except RuntimeError as error:
        message = str(error)
    assert "parameter 0 of group 0" in message
    assert "before it is sharded" in message
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def counts_first_elements() -> None:
    """The number of a shard's first element is where it is in the whole."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    wrong = []
    for place in (Shard(0), Shard(1), Replicate()):
        for shape in ((8, 6), (5, 7), (1, 3)):
            shard = distribute_tensor(torch.arange(shape[0] * shape[1]).view(shape), mesh, [place])
            first = shard.to_local().flatten()[:1].tolist()
            wrong += [(place, shape)] if first and first != [first_element(shard)] else []
    assert not wrong


def precisions() -> dict[str, Case]:
    """Return cases for two ranks."""
    return {
        "precision: trains as one process": trains_as_one_process,
        "precision: misplaced gradients": misplaced_gradients,
        "precision: uneven cut": uneven_cut,
        "precision: checkpoints travel": checkpoints_travel,
        "precision: whole checkpoints travel": whole_checkpoints_travel,
        "precision: refuses to lower": refuses_to_lower,
        "precision: first elements": counts_first_elements,
    }
