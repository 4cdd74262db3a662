"""Checkpoints of a model that is spread over ranks: saved by some ranks and loaded by others, training goes on."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from sharded import STEPS, Spread, compare, fsdp, fully_sharded, new_net
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

import torch_gd
from torch_gd.optimizers import FusedOptimizer

Case = Callable[[], Any]
NESTED = StateDictOptions()
FLAT = StateDictOptions(flatten_optimizer_state_dict=True)
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class Stage(NamedTuple):
    """A step of training: by how many ranks, with whose optimizer, and how it is saved then."""

    ranks: int
    library: Any
    kind: StateDictOptions


JOURNEY = [
    Stage(2, torch_gd, NESTED),
    Stage(4, torch.optim, NESTED),
    Stage(1, torch_gd, FLAT),
    Stage(2, torch.optim, FLAT),
    Stage(4, torch_gd, WHOLE),
    Stage(1, torch.optim, WHOLE),
    Stage(4, torch_gd, NESTED),
]


@contextmanager
def shared_folder() -> Iterator[Path]:
    """Give all ranks one folder."""
    names = [mkdtemp() if dist.get_rank() == 0 else ""]
    dist.broadcast_object_list(names)
    yield Path(names[0])
    dist.barrier()
    if dist.get_rank() == 0:
        shutil.rmtree(names[0])


@cache
def mesh_of(ranks: int) -> DeviceMesh:
    """Return a mesh of the first ranks; all ranks must ask for it, since it makes a process group."""
    return DeviceMesh("cpu", list(range(ranks)))


def over(ranks: int) -> Spread | None:
    """Spread a model over the first ranks; a single one has the whole. None on the others."""
    mesh, rank = mesh_of(ranks), dist.get_rank()
    if rank >= ranks:
        return None
    return Spread(new_net() if ranks == 1 else fully_sharded(new_net(), mesh), lambda x: x.chunk(ranks)[rank])


def save(folder: Path, stage: Stage, model: Spread, optimizer: Optimizer) -> None:
    """Save model and optimizer; all of the stage's ranks call it."""
    model_state, states = get_state_dict(model.model, optimizer, options=stage.kind)
    state = {"model": model_state, "optimizer": states}
    if stage.kind is not WHOLE:
        write = dcp.save if stage.ranks < dist.get_world_size() else dcp.async_save
        saved = write(
            state, checkpoint_id=folder, process_group=mesh_of(stage.ranks).get_group(), no_dist=stage.ranks == 1
        )
        if write is dcp.async_save:
            saved.result()
    elif dist.get_rank() == 0:
        torch.save(state, folder)


def load(folder: Path, kind: StateDictOptions, ranks: int, model: Spread, optimizer: Optimizer) -> None:
    """Load what other ranks have saved."""
    if kind is WHOLE:
        from_one = ranks == dist.get_world_size()  # which sends it to the whole world
        state: dict[str, Any] = {"model": {}, "optimizer": {}}
        if dist.get_rank() == 0 or not from_one:
            state = torch.load(folder, weights_only=True)
        kind = StateDictOptions(full_state_dict=True, broadcast_from_rank0=from_one)
    else:
        model_state, states = get_state_dict(model.model, optimizer, options=kind)
        state = {"model": model_state, "optimizer": states}
        dcp.load(state, checkpoint_id=folder, process_group=mesh_of(ranks).get_group(), no_dist=ranks == 1)
    set_model_state_dict(model.model, state["model"], options=kind)
    set_optimizer_state_dict(model.model, optimizer, state["optimizer"], options=kind)


def step(number: int, model: Spread, optimizer: Optimizer) -> None:
    """Train for a step."""
    model.loss(number).backward()
    optimizer.step()
    optimizer.zero_grad()


def is_spread(model: Spread) -> bool:
    """Return whether a model is spread over ranks."""
    return any(isinstance(p, DTensor) for p in model.params.values())


def travelled(name: str, options: dict[str, Any], model: Spread) -> FusedOptimizer:
    """Train for a step on each stage of the journey, the last with the model given; one that is not spread stays."""
    if not is_spread(model):
        optimizer = model.optimizer(name, **options)
        for number in range(len(JOURNEY)):
            step(number, model, optimizer)
        return optimizer
    with shared_folder() as folder:
        for number, stage in enumerate(JOURNEY):
            here = model if stage is JOURNEY[-1] else over(stage.ranks)
            if here is not None:
                optimizer = here.optimizer(name, stage.library, **options)
                if number > 0:
                    load(folder / str(number - 1), JOURNEY[number - 1].kind, stage.ranks, here, optimizer)
                step(number, here, optimizer)
                save(folder / str(number), stage, here, optimizer)
            dist.barrier()
    return optimizer


def goes_on(name: str, options: dict[str, Any]) -> None:
    """A journey over checkpoints ends where one process ends that has not made it."""
    compare(fsdp(), partial(travelled, name, options))


def checkpoints_of_four() -> dict[str, Case]:
    """Return cases for four ranks."""
    optimizers: dict[str, dict[str, Any]] = {
        "AdamW": {"eps": 1e-3},
        "SGD": {"momentum": 0.9},
        "Adagrad": {"eps": 1e-3},
        "RMSprop": {"momentum": 0.9, "centered": True, "eps": 1e-3},
    }
    return {f"checkpoints travel: {name}": partial(goes_on, name, options) for name, options in optimizers.items()}


def with_policy(kind: StateDictOptions, clip: torch_gd.ClipPolicy, model: Spread) -> FusedOptimizer:
    """If the model is spread, have an optimizer go on that was made with other clipping and L1 than its checkpoint."""
    optimizer = model.optimizer("AdamW", clip=clip, l1=0.01, eps=1e-3)
    for number in range(STEPS):
        if number == 2 and is_spread(model):
            saved = [get_optimizer_state_dict(model.model, optimizer, options=kind)]
            if kind is WHOLE:
                dist.broadcast_object_list(saved)
            optimizer = model.optimizer("AdamW", clip=torch_gd.ClipByGlobalNorm(9.0, skip_nonfinite=True), l1=0.9)
            # Makes states by a step of this optimizer; were that to change a value, it would show in the end.
            set_optimizer_state_dict(model.model, optimizer, saved[0], options=WHOLE if kind is WHOLE else NESTED)
        model.loss(number).backward()
        if number == 1 and clip.skip_nonfinite:
            (p.to_local() if isinstance(p := model.params["up.weight"].grad, DTensor) else p)[0, 0] = float("nan")
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def keeps_policy(kind: StateDictOptions, clip: torch_gd.ClipPolicy) -> None:
    """A policy, its skipped steps and L1 come with the checkpoint, on every rank."""
    optimizer = compare(fsdp(), partial(with_policy, kind, clip))
    assert optimizer.clip == clip
    assert [group["l1"] for group in optimizer.param_groups] == [0.01, 0.01]
    assert (optimizer.skipped_steps or 0) == clip.skip_nonfinite


def checkpoints() -> dict[str, Case]:
    """Return cases for two ranks."""
    policies = (
        torch_gd.ClipByValue(1e-3),
        torch_gd.ClipByGlobalNorm(0.05, skip_nonfinite=True),
        torch_gd.ClipAdaptive(),
    )
    return {
        f"policies in checkpoints: {what}, {type(clip).__name__}": partial(keeps_policy, kind, clip)
        for what, kind in (("nested", NESTED), ("flat", FLAT), ("whole", WHOLE))
        for clip in policies
    }
