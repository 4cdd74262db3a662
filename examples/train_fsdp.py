"""Trains a small transformer, character by character, on Python's own documentation, spread over ranks by FSDP2.

    torchrun --nproc-per-node 2 examples/train_fsdp.py    # two processes: gloo on a CPU, NCCL on GPUs
    python examples/train_fsdp.py                         # one process

Loss, gradient norm and checkpoints go to a folder. The same command again goes on from the last checkpoint there: after
a kill at whatever moment, on as many ranks, with the same losses to the last bit; on more or fewer, up to rounding. The
text is what `help("while")` and its like show. It comes with Python, so that nothing is downloaded.
"""

import argparse
import os
import random
import shutil
import tempfile
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from argument_types import not_negative, positive, seed
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from tqdm import tqdm

import torch_gd
from torch_gd.convergence import CSVWriter
from torch_gd.lr_scheduler import CosineSchedule

LENGTH, WIDTH, HEADS, LAYERS = 64, 64, 4, 2  # characters in a piece of text; the transformer


class Transformer(nn.Module):
    """Predicts each character from those before it, and returns the mean loss in nats.

    Without dropout nothing is random but weights and batches, so that a checkpoint need not hold a generator's state.
    """

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.characters, self.positions = nn.Embedding(characters, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, dropout=0, batch_first=True, norm_first=True)
            for _ in range(LAYERS)
        )
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, characters)

    def forward(self, text: Tensor) -> Tensor:
        x = self.characters(text[:, :-1]) + self.positions(torch.arange(LENGTH, device=text.device))
        mask = nn.Transformer.generate_square_subsequent_mask(LENGTH, text.device)
        for block in self.blocks:
            x = block(x, mask, is_causal=True)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), text[:, 1:].flatten())


def load() -> tuple[Tensor, int]:
    """Return all pieces of the text, (n, LENGTH + 1), each character a number; and the number of different ones."""
    text = "".join(topics.values())
    numbers = {character: number for number, character in enumerate(sorted(set(text)))}
    return torch.tensor([numbers[character] for character in text]).unfold(0, LENGTH + 1, 1), len(numbers)


def train(
    steps: int, save_every: int, batch_size: int, lr: float, seed: int, device: torch.device, folder: Path
) -> None:
    """Train up to a step, from the last checkpoint in the folder if there is one.

    Raises:
        ValueError: the folder holds a run with other settings.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    pieces, characters = load()
    torch.manual_seed(seed)  # the same on all ranks: each draws all weights and keeps its shard of them
    model = Transformer(characters).to(device)
    mesh = init_device_mesh(device.type, (world,))
    for module in (*model.blocks, model):
        fully_shard(module, mesh=mesh)
    optimizer = torch_gd.AdamW(model.parameters(), lr=lr, clip=1.0)  # by the norm of the whole model, in the step
    schedule = CosineSchedule(optimizer, total_steps=steps, floor=0.1, warmup=0.1)
    settings = {"lr": lr, "batch_size": batch_size, "seed": seed}

    def state() -> dict[str, Any]:
        weights, states = get_state_dict(model, optimizer)
        return {"model": weights, "optimizer": states, "schedule": schedule.state_dict(), "settings": settings.copy()}

    whole = sorted(folder.glob("step-*/.metadata"))  # the file that is written last
    if whole:
        saved = state()
        dcp.load(saved, checkpoint_id=whole[-1].parent)
        if saved["settings"] != settings:
            raise ValueError(f"{str(folder)!r} holds a run with {saved['settings']}, not {settings}")
        set_state_dict(model, optimizer, model_state_dict=saved["model"], optim_state_dict=saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
    done = schedule.last_epoch

    log = CSVWriter(folder / "losses.csv", append=True, purge_step=done + 1) if rank == 0 else None
    losses: list[Tensor] = []
    norms: list[Tensor] = []
    progress = tqdm(range(done + 1, steps + 1), initial=done, total=steps, unit="step", disable=rank > 0)
    for step in progress:
        # A batch depends on seed and step alone: no position is to be saved, and any number of ranks share the same.
        batch = random.Random(f"{seed} {step}").choices(range(len(pieces)), k=batch_size)
        loss = model(pieces[batch[rank::world]].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
        norms.append(optimizer.last_norm)
        if step % save_every and step < steps:
            continue

        # Numbers are read here only, since reading waits for the GPU. They are logged before the checkpoint is whole,
        # since a run that goes on from it logs only what comes after.
        means = torch.stack(losses) / world
        dist.all_reduce(means)
        if log is not None:
            since = range(step + 1 - len(losses), step + 1)
            for i, mean, norm in zip(since, means.tolist(), torch.stack(norms).tolist()):
                log.add_scalar("loss", mean, i)
                log.add_scalar("grad_norm", norm, i)
            log.flush()
            progress.set_postfix(loss=f"{mean:.4f}", grad_norm=f"{norm:.4f}")
        losses, norms = [], []
        dcp.save(state(), checkpoint_id=folder / f"step-{step:08}")
        if rank == 0:
            for other in {*folder.glob("step-*")} - {folder / f"step-{step:08}"}:
                shutil.rmtree(other)


def main() -> None:
    """Train as one of the ranks that torchrun has started, or alone."""
    parser = argparse.ArgumentParser(description="Train a transformer on Python's documentation, with FSDP2.")
    shown = "default: %(default)s"
    devices = ("cuda", "cpu") if torch.cuda.is_available() else ("cpu",)
    parser.add_argument("--steps", type=positive, default=300, help=shown)
    parser.add_argument("--save-every", type=positive, metavar="STEPS", default=50, help=shown)
    parser.add_argument("--batch-size", type=positive, default=32, help=f"of all ranks together ({shown})")
    parser.add_argument("--lr", type=not_negative, default=0.01, help=f"at the schedule's top ({shown})")
    parser.add_argument("--seed", type=seed, default=0, help=f"of weights and batches ({shown})")
    parser.add_argument("--device", choices=devices, default=devices[0], help=shown)
    parser.add_argument("--folder", type=Path, default="train_fsdp", help=f"of checkpoints and losses.csv ({shown})")
    args = parser.parse_args()
    world = int(os.environ.get("WORLD_SIZE", 1))
    if args.batch_size % world:
        parser.error(f"argument --batch-size: must be a multiple of {world}, the number of ranks")
    try:
        args.folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=args.folder).close()
    except OSError as error:
        parser.error(f"argument --folder: cannot write to {str(args.folder)!r}: {error.strerror}")

    torch.set_num_threads(1)  # a second thread gains nothing for a model this small, and costs much on shared cores
    if "RANK" in os.environ:
        dist.init_process_group()
    else:
        dist.init_process_group(store=dist.HashStore(), rank=0, world_size=1)
    device = torch.device(args.device)
    if args.device == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, torch refuses what comes next
        torch.use_deterministic_algorithms(True)  # on a GPU this is what makes losses equal to the last bit
    try:
        train(args.steps, args.save_every, args.batch_size, args.lr, args.seed, device, args.folder)
    except ValueError as error:
        parser.error(f"argument --folder: {error}")
    if dist.get_rank() == 0:
        print(f"checkpoint and losses are in {args.folder}; for another run remove it or name another")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
