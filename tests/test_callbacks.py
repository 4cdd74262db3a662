"""The callbacks, each in the trainer of its library."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from libraries import lightning, transformers
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import torch_gd
from torch_gd.convergence import Diverged, EarlyStopping, MaxSteps
from torch_gd.lr_scheduler import GreedyLR, get_scheduler


@pytest.fixture(autouse=True)
def without_kernels(torch_path: None) -> None:
    """Leave every tensor to torch: interpreted kernels would be slow here."""


def data() -> TensorDataset:
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, x.sum(1, keepdim=True))


@pytest.mark.parametrize("module", ["lightning", "huggingface"])
def test_what_is_missing_is_said(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lightning.pytorch", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"torch_gd.callbacks.{module}", raising=False)
    with pytest.raises(ModuleNotFoundError, match="pip install"):
        __import__(f"torch_gd.callbacks.{module}")


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"every": 0}, ValueError, "every: 0"),
    ({"every": None}, TypeError, "every: None"),
    ({"stop": EarlyStopping}, TypeError, "stop is the class EarlyStopping, not a criterion"),
    ({"stop": "val_loss"}, TypeError, "stop is 'val_loss', not a criterion"),
    ({"validation_loss": 3}, TypeError, "validation_loss is 3, not a name"),
    ({"report": "no"}, TypeError, "report is 'no'"),
]


@pytest.mark.parametrize("library", [lightning, transformers])
def test_a_wrong_argument_is_named_before_training(library: Any) -> None:
    library()
    module = "lightning" if library is lightning else "huggingface"
    callback = importlib.import_module(f"torch_gd.callbacks.{module}").ConvergenceMonitor
    for arguments, kind, message in WRONG:
        with pytest.raises(kind, match=message):
            callback(**arguments)


# --- Lightning --------------------------------------------------------------------------------------------------------


def lightning_run(
    tmp_path: Path,
    lr: float = 0.05,
    epochs: int = 3,
    accumulate: int = 1,
    configured: Callable[[torch.optim.Optimizer], Any] = lambda optimizer: optimizer,
    at_start: Callable[[Any], None] = lambda module: None,
    **options: Any,
) -> Any:
    """Train a linear network; return the trainer, the callback and the module, which keeps its losses."""
    pl = lightning()
    from torch_gd.callbacks.lightning import ConvergenceMonitor

    class Module(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Linear(4, 1)
            self.losses: list[float] = []

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
            self.losses.append(loss.item())
            return loss

        def validation_step(self, batch: list[Tensor], _: int) -> None:
            self.log("val_loss", nn.functional.mse_loss(self.net(batch[0]), batch[1]))

        def on_train_start(self) -> None:
            at_start(self)

        def configure_optimizers(self) -> Any:
            return configured(torch_gd.SGD(self.parameters(), lr=lr))

    callback = ConvergenceMonitor(every=2, **options)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
        log_every_n_steps=2,
        accumulate_grad_batches=accumulate,
        default_root_dir=tmp_path,
    )
    module = Module()
    loader = DataLoader(data(), 16)
    trainer.fit(module, loader, loader)
    return trainer, callback, module


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_lightning(tmp_path: Path, accumulate: int) -> None:
    trainer, callback, module = lightning_run(tmp_path, accumulate=accumulate)
    assert callback.monitor.train_losses == pytest.approx(module.losses)
    assert len(callback.monitor.validation_losses) == 3  # the loss of the sanity check does not count
    assert callback.monitor.validation_losses[-1] == pytest.approx(float(trainer.callback_metrics["val_loss"]))
    assert [record.step for record in callback.monitor.statistics] == list(range(1, trainer.global_step + 1, 2))
    assert set(callback.monitor.statistics[0].grad_norms) == {"net.weight", "net.bias"}
    assert float(trainer.callback_metrics["convergence/grad_norm"]) > 0
    callback.on_validation_end(SimpleNamespace(sanity_checking=True), module)  # the sanity check of another run
    assert len(callback.monitor.validation_losses) == 3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("lr", "stop", "steps"),
    [
        (0.05, MaxSteps(8), 8),
        (5.0, Diverged(monitor="val_loss"), 8),
        (0.0, EarlyStopping("val_loss", patience=2), 12),
    ],
)
def test_lightning_stops(tmp_path: Path, lr: float, stop: Any, steps: int) -> None:
    trainer, callback, _ = lightning_run(tmp_path, lr=lr, epochs=10, stop=stop, report=False)
    assert trainer.global_step == steps
    assert stop.reason
    again = type(callback)(stop=MaxSteps(8) if isinstance(stop, MaxSteps) else type(stop)(monitor="val_loss"))
    again.load_state_dict(callback.state_dict())
    assert again.stop is not None
    assert again.stop.reason == stop.reason


@pytest.mark.filterwarnings("ignore")
def test_lightning_without_an_optimizer(tmp_path: Path) -> None:
    _, callback, module = lightning_run(tmp_path, epochs=1, configured=lambda _: None)
    assert callback.monitor.train_losses == pytest.approx(module.losses)
    assert callback.monitor.statistics == []


@pytest.mark.filterwarnings("ignore")
def test_lightning_steps_a_schedule_by_its_metric_and_clips_by_the_policy_that_is_set(tmp_path: Path) -> None:
    def configured(optimizer: torch.optim.Optimizer) -> Any:
        schedulers.append(GreedyLR(optimizer, patience=0, min_lr=0))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedulers[0], "monitor": "val_loss"}}

    def at_start(module: Any) -> None:
        module.optimizers().clip = policy

    schedulers: list[GreedyLR] = []
    policy = torch_gd.ClipByGlobalNorm(1e-3)
    trainer, _, module = lightning_run(tmp_path, configured=configured, at_start=at_start, report=False)
    (optimizer,) = trainer.optimizers
    assert schedulers[0].last_epoch == 3  # once after each validation
    assert optimizer.param_groups[0]["lr"] != 0.05
    assert optimizer.clip is module.optimizers().clip is policy
    assert 0 < module.optimizers().last_coefficient < 1
    assert optimizer._step_supports_amp_scaling


def test_fabric_clips_by_the_policy_that_is_set() -> None:
    lightning()
    from lightning.fabric import Fabric

    inside = torch_gd.SGD(nn.Linear(4, 1).parameters(), lr=0.1)
    optimizer = Fabric(accelerator="cpu").setup_optimizers(inside)
    optimizer.clip = 0.5
    assert inside.clip == optimizer.clip == torch_gd.ClipByGlobalNorm(0.5)
    optimizer.clip = None
    assert inside.clip is optimizer.clip is None


# --- Hugging Face -----------------------------------------------------------------------------------------------------


class Regression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(4, 1)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        y = self.net(x)
        return {"loss": nn.functional.mse_loss(y, labels), "logits": y}


def huggingface_run(
    tmp_path: Path, lr: float = 0.05, epochs: int = 3, scheduler: str = "constant", **options: Any
) -> Any:
    hf = transformers()
    from torch_gd.callbacks.huggingface import ConvergenceMonitor

    model = Regression()
    callback = ConvergenceMonitor(every=2, **options)
    arguments = hf.TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=epochs,
        per_device_train_batch_size=16,
        logging_steps=2,
        eval_strategy="epoch",
        save_strategy="no",
        report_to=[],
        max_grad_norm=0,  # with the default, a norm of 1, it would not diverge at any rate
        use_cpu=True,
        disable_tqdm=True,
        metric_for_best_model="loss",
    )
    optimizer = torch_gd.SGD(model.parameters(), lr=lr)
    rows = [{"x": x, "labels": y} for x, y in data()]
    trainer = hf.Trainer(
        model,
        arguments,
        train_dataset=rows,
        eval_dataset=rows,
        callbacks=[callback],
        optimizers=(optimizer, get_scheduler(scheduler, optimizer)),
    )
    trainer.train()
    return trainer, callback


@pytest.mark.filterwarnings("ignore")
def test_huggingface(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer, callback = huggingface_run(tmp_path, scheduler="greedy")
    assert trainer.lr_scheduler.last_epoch == 3  # stepped by the validation loss, once after each evaluation
    assert trainer.lr_scheduler.best == min(callback.monitor.validation_losses)
    history = trainer.state.log_history
    assert trainer.state.global_step == 12
    assert callback.monitor.train_losses == [entry["loss"] for entry in history if "loss" in entry]
    assert callback.monitor.validation_losses == [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    assert len(callback.monitor.validation_losses) == 3
    assert [record.step for record in callback.monitor.statistics] == [1, 3, 5, 7, 9, 11]
    assert set(callback.monitor.statistics[0].grad_norms) == {"net.weight", "net.bias"}
    assert all(entry["update_ratio"] > 0 for entry in history if "loss" in entry)
    assert "update-to-weight ratio" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("lr", "stop", "steps"),
    [
        (0.05, MaxSteps(8), 8),
        (5.0, Diverged(monitor="eval_loss"), 8),
        (0.0, EarlyStopping("eval_loss", patience=2), 12),
    ],
)
def test_huggingface_stops(
    tmp_path: Path, lr: float, stop: Any, steps: int, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer, _ = huggingface_run(tmp_path, lr=lr, epochs=10, stop=stop)
    assert trainer.state.global_step == steps
    assert f"stopped: {stop.reason}" in capsys.readouterr().out
