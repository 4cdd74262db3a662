"""FSDP2 by Lightning and by accelerate: what one trainer has saved, another loads, and ends where one process ends."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from libraries import lightning
from sharded import BATCH, STEPS, alone, batch_of, full, fully_sharded, new_net, rows
from sharded_checkpoints import shared_folder
from sharded_zero import assert_close, train
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import torch_gd

Case = Callable[[], Any]
CLIP, L1 = torch_gd.ClipByValue(1e-3), 0.01
sys.path.append(str(Path(__file__).parents[1] / "examples"))  # for what `libraries` imports


def new_optimizer(model: nn.Module, resumes: bool) -> torch_gd.AdamW:
    """Return an optimizer; one that resumes has another policy and another L1, which the checkpoint must replace."""
    options = {"clip": torch_gd.ClipByValue(9.0), "l1": 0.9} if resumes else {"clip": CLIP, "l1": L1}
    return torch_gd.AdamW(model.parameters(), lr=0.05, eps=1e-3, **options)


def check(model: nn.Module, optimizer: torch_gd.AdamW) -> None:
    """Assert that a model is what two epochs in one process make of it, with the policy of the first."""
    found, single = {name: full(p) for name, p in model.named_parameters()}, alone()
    reference = new_optimizer(single.model, resumes=False)
    for _ in range(2):
        train(single, reference, range(STEPS))
    assert (optimizer.clip, optimizer.param_groups[0]["l1"]) == (CLIP, L1)
    assert_close(found, {name: p.detach() for name, p in single.params.items()})


@contextmanager
def launched() -> Iterator[None]:
    """Set the variables that a launcher sets."""
    rank, world = str(dist.get_rank()), str(dist.get_world_size())
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (variables | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}).items():  # nobody connects
            patch.setenv(name, value)
        yield


def with_lightning(in_shards: bool) -> None:
    """Train for an epoch with `ModelParallelStrategy`, and for another with a new one."""
    pl = lightning()
    from lightning.pytorch.strategies import ModelParallelStrategy

    class Module(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self, resumes: bool) -> None:
            super().__init__()
            self.resumes = resumes

        def configure_model(self) -> None:
            self.net = fully_sharded(new_net(), self.device_mesh["data_parallel"])

        def configure_optimizers(self) -> Any:
            return new_optimizer(self, self.resumes)

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            return (self.net(batch[0]) - 1).square().mean()

    mine = rows()
    loader = DataLoader(TensorDataset(torch.cat([mine(batch_of(step)) for step in range(STEPS)])), BATCH // 2)
    with shared_folder() as folder, launched():
        for epochs in (1, 2):
            trainer = pl.Trainer(
                accelerator="cpu",
                devices=2,
                strategy=ModelParallelStrategy(2, 1, save_distributed_checkpoint=in_shards),
                max_epochs=epochs,
                default_root_dir=folder,
                use_distributed_sampler=False,  # which would shuffle
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            module = Module(resumes=epochs == 2)
            trainer.fit(module, loader, ckpt_path=folder / "saved" if module.resumes else None)
            if not module.resumes:
                trainer.save_checkpoint(folder / "saved")
    check(module.net, trainer.optimizers[0])


def with_accelerate(kind: str) -> None:
    """Train for an epoch with `Accelerator.prepare` and save; prepare anew, load, and train for another."""
    from accelerate import Accelerator, FullyShardedDataParallelPlugin, PartialState
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    mine = rows()
    with shared_folder() as folder, launched():
        for resumes in (False, True):
            # On a CPU accelerate knows no FSDP. It takes this for GPUs; the rest is as it is there.
            PartialState(cpu=True).distributed_type = DistributedType.MULTI_GPU
            plugin = FullyShardedDataParallelPlugin(
                fsdp_version=2, state_dict_type=kind, auto_wrap_policy="no_wrap", cpu_ram_efficient_loading=False
            )
            accelerator = Accelerator(cpu=True, fsdp_plugin=plugin)
            model = new_net()
            model, optimizer = accelerator.prepare(model, new_optimizer(model, resumes))
            if resumes:
                accelerator.load_state(folder / "saved")
            for step in range(STEPS):
                optimizer.zero_grad()
                accelerator.backward((model(mine(batch_of(step))) - 1).square().mean())
                optimizer.step()
            if not resumes:
                accelerator.save_state(folder / "saved")
            AcceleratorState._reset_state(reset_partial_state=True)
    check(model, optimizer.optimizer)


def trainers() -> dict[str, Case]:
    """Return cases for two ranks, of the libraries that are installed."""
    cases: dict[str, Case] = {}
    if find_spec("lightning") is not None:
        cases["Lightning, saved in shards"] = partial(with_lightning, True)
        cases["Lightning, saved whole"] = partial(with_lightning, False)
    if find_spec("accelerate") is not None:
        cases["accelerate, saved in shards"] = partial(with_accelerate, "SHARDED_STATE_DICT")
        cases["accelerate, saved whole"] = partial(with_accelerate, "FULL_STATE_DICT")
    return cases
