"""A small model spread over ranks in every way, and the same training in one process to compare it with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

import torch_gd

STEPS = 4
BATCH, LENGTH, WIDTH = 8, 4, 6


class Net(nn.Module):
    """Two layers to be cut across, a norm whose gradients are then partial sums, and sizes that ranks cannot share."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 8), nn.Linear(8, WIDTH)
        self.tail, self.head = nn.Linear(WIDTH, 5), nn.Linear(5, 1)  # 5 rows, and 1: uneven and empty shards

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(torch.tanh(self.up(self.norm(x))))
        return self.head(torch.tanh(self.tail(y)))


def device() -> torch.device:
    """Return where this world's tensors are."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


def new_net() -> Net:
    """Return the model; in double, beside whose rounding any wrong step is large."""
    torch.manual_seed(0)
    return Net().double().to(device())


def batch_of(step: int) -> Tensor:
    """Return the inputs of a step, for all ranks together."""
    x = torch.randn(BATCH, LENGTH, WIDTH, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    return x.to(device())


@dataclass
class Spread:
    """A model spread over the ranks.

    Args:
        model: the model.
        mine: returns this rank's part of a batch.
    """

    model: nn.Module
    mine: Callable[[Tensor], Tensor]

    @property
    def params(self) -> dict[str, Any]:
        """Return its parameters by the names that they have in `Net`."""
        return {name.removeprefix("module."): p for name, p in self.model.named_parameters()}

    def optimizer(self, name: str, library: Any = torch_gd, **options: Any) -> Any:
        """Return an optimizer, of ours or of another library, with two groups."""
        params = list(self.params.values())
        groups = [{"params": params[:3]}, {"params": params[3:], "weight_decay": 0.1}]
        return getattr(library, name)(groups, **{"lr": 0.05, **options})

    def loss(self, step: int) -> Tensor:
        """Return the loss of a step: a mean, so that the mean over ranks is the whole batch's."""
        return (self.model(self.mine(batch_of(step))) - 1).square().mean()


def alone() -> Spread:
    """One process with the whole model and the whole batch, on every rank."""
    return Spread(new_net(), lambda x: x)


def ddp() -> Spread:
    """Data parallel: plain tensors."""
    return Spread(DistributedDataParallel(new_net()), rows())


def fsdp(**policies: Any) -> Spread:
    """FSDP2, with policies of its own."""
    return Spread(
        fully_sharded(new_net(), init_device_mesh(device().type, (dist.get_world_size(),)), **policies), rows()
    )


def hsdp() -> Spread:
    """FSDP2 within pairs, which are replicated."""
    return Spread(
        fully_sharded(new_net(), init_device_mesh(device().type, (2, 2), mesh_dim_names=("copies", "shards"))), rows()
    )


def tp() -> Spread:
    """Tensor and sequence parallel; what is not cut stays plain, so that one optimizer gets both kinds."""
    mesh = init_device_mesh(device().type, (dist.get_world_size(),))
    return Spread(_tensor_parallel(new_net(), mesh), lambda x: x.chunk(mesh.size(), 1)[mesh.get_local_rank()])


def fsdp_tp() -> Spread:
    """FSDP2 of a tensor parallel model: shards of shards, on two meshes in one optimizer."""
    mesh = init_device_mesh(device().type, (2, 2), mesh_dim_names=("dp", "tp"))
    model = fully_sharded(_tensor_parallel(new_net(), mesh["tp"]), mesh["dp"])
    rows, columns = mesh["dp"].get_local_rank(), mesh["tp"].get_local_rank()
    return Spread(model, lambda x: x.chunk(2)[rows].chunk(2, 1)[columns])


def partly() -> Spread:
    """FSDP2 of some layers only; the gradients of the others are averaged by hand."""
    model = new_net()
    for layer in (model.up, model.tail):
        fully_shard(layer, mesh=init_device_mesh(device().type, (dist.get_world_size(),)))
    for p in model.parameters():
        if not isinstance(p, DTensor):
            p.register_post_accumulate_grad_hook(lambda p: dist.all_reduce(p.grad.div_(dist.get_world_size())))
    return Spread(model, rows())


def rows() -> Callable[[Tensor], Tensor]:
    """Return a function that returns this rank's rows of a batch."""
    return lambda x: x.chunk(dist.get_world_size())[dist.get_rank()]


def fully_sharded(model: Net, mesh: DeviceMesh, **policies: Any) -> Net:
    """Shard each layer of a model by FSDP2, and what is left of it."""
    for layer in (model.up, model.down, model.tail):
        fully_shard(layer, mesh=mesh, **policies)
    return fully_shard(model, mesh=mesh, **policies)


def _tensor_parallel(model: Net, mesh: DeviceMesh) -> Net:
    up, down = ColwiseParallel(input_layouts=Shard(1)), RowwiseParallel(output_layouts=Replicate())
    parallelize_module(model, mesh, {"norm": SequenceParallel(), "up": up, "down": down})
    return model


Drive = Callable[[Spread], torch_gd.optimizers.FusedOptimizer]
Before = Callable[[int, Spread, torch_gd.optimizers.FusedOptimizer], None]


def training(name: str, before_step: Before | None = None, **options: Any) -> Drive:
    """Return a function that trains a model for some steps and returns the optimizer.

    Args:
        name: the optimizer's.
        before_step: what to do between backward and step.
        options: of the optimizer.
    """

    def drive(model: Spread) -> torch_gd.optimizers.FusedOptimizer:
        optimizer = model.optimizer(name, **options)
        for step in range(STEPS):
            optimizer.zero_grad()
            model.loss(step).backward()
            if before_step is not None:
                before_step(step, model, optimizer)
            optimizer.step()
        return optimizer

    return drive


def compare(spread: Spread, drive: Drive) -> torch_gd.optimizers.FusedOptimizer:
    """Assert that training a spread model is training it in one process; return the spread model's optimizer.

    Values and states must be equal, and states placed as their parameters.
    """
    single = alone()
    optimizer, reference = drive(spread), drive(single)
    found, wrong = [], []
    for (name, p), q in zip(spread.params.items(), single.params.values()):
        state, expected = optimizer.state[p], reference.state[q]
        assert list(state) == list(expected)
        found += [(name, full(p), q), *((f"{name} {key}", full(state[key]), expected[key]) for key in state)]
        for key, value in state.items():
            expected_place = "here" if key in ("step", "mu_product") else placement(p)
            wrong += [f"{name} {key}"] if placement(value) != expected_place else []
    if reference.last_norm is not None:
        found.append(("last_norm", optimizer.last_norm, reference.last_norm))
    # All is gathered before anything is compared, or a rank that fails would leave the others waiting.
    assert not wrong, f"placed otherwise than their parameters: {wrong}"
    for what, value, whole in found:
        # Ranks sum in another order: some 100 roundings of 1e-16, which division by small numbers may enlarge 1e5-fold.
        torch.testing.assert_close(value, whole, rtol=1e-9, atol=1e-9, msg=lambda text, what=what: f"{what}: {text}")
    return optimizer


def placement(tensor: Tensor) -> object:
    """Return where the elements of a tensor are."""
    return (tensor.device_mesh, tensor.placements) if isinstance(tensor, DTensor) else "here"


def full(tensor: Tensor) -> Tensor:
    """Return the whole of a tensor of which each rank may hold a shard; every rank must call it."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()
