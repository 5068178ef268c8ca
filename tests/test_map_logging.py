"""Maps logged by transformers' and Lightning's own trainers, which train as without them."""

from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboardX.proto.event_pb2 import Event
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainingArguments

from semattn import RawAttention, SIFTPatchInterrelation
from semattn.errors import ShapeError, UnsupportedModelError
from semattn.integrations import log_maps
from semattn.integrations.map_logging import MapLogger, check_whole_weights
from semattn.viz import overlay
from tests.models import build, images, state_of

pytestmark = [
    # Lightning, of loaders without workers and short runs; torch, of pinned memory without a GPU
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore::lightning_fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:.*(GPU available|isinstance.treespec, LeafSpec)"),
]
STEPS = 4
INPUTS = images(8)


class Batches(Dataset[dict[str, Tensor]]):
    """Eight images with labels."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": INPUTS[index], "labels": torch.tensor(index % 5)}


class Classifier(nn.Module):
    """Vision transformer with dropout, which draws from the global random generator."""

    def __init__(self) -> None:
        super().__init__()
        self.net = build("class-token")
        for block in self.net.blocks:
            block.mlp.drop1.p = block.attn.proj_drop.p = 0.3

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.net(pixel_values)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def net_of(module: Any) -> nn.Module:
    return module.net


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def logged_pictures(folder: Path) -> list[tuple[int, str]]:
    """Return the step and the tag of each picture in TensorBoard's event files."""
    found = []
    for file in sorted(folder.rglob("events*")):
        data = file.read_bytes()
        while data:  # length, its checksum, the event, its checksum
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            found += [
                (event.step, value.tag.replace(" ", "_"))
                for value in event.summary.value
                if value.WhichOneof("value") == "image"
                and (value.image.height, value.image.width) == (48, 64)
            ]
    return found


def train_by_transformers(folder: Path, report_to: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    model = Classifier().train()
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=4, report_to=report_to,
        save_strategy="no", use_cpu=True, disable_tqdm=True, seed=3, logging_strategy="no",
        dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=Batches())
    if options:
        log_maps(trainer, images(2), select_model=net_of, **options)
    trainer.train()
    return model


def train_by_lightning(folder: Path, loggers: Any, **options: Any) -> nn.Module:
    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Classifier().net

        def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch["pixel_values"]), batch["labels"])

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), 1e-2)

    torch.manual_seed(0)
    module = Module()
    trainer = lightning.Trainer(
        max_epochs=STEPS // 2, accelerator="cpu", logger=loggers, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, log_every_n_steps=1,
        default_root_dir=folder,
    )  # fmt: skip
    if options:
        log_maps(trainer, images(2), select_model=net_of, **options)
    torch.manual_seed(1)
    trainer.fit(module, DataLoader(Batches(), batch_size=4, shuffle=True))
    return module


def test_transformers_trains_the_same_weights_and_tensorboard_has_the_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    alone = train_by_transformers(tmp_path, "none")
    model = train_by_transformers(tmp_path, "tensorboard", every_n_steps=3)
    for expected, trained in zip(weights(alone), weights(model), strict=True):
        assert torch.equal(expected, trained)
    assert state_of(model) == state_of(alone)
    tags = ["semattn/image_0", "semattn/image_1"]
    assert logged_pictures(tmp_path) == [(step, tag) for step in (0, 3) for tag in tags]


def test_lightning_trains_the_same_weights_and_tensorboard_has_the_pictures(tmp_path: Path) -> None:
    alone = train_by_lightning(tmp_path, False)
    board = TensorBoardLogger(tmp_path / "board")
    model = train_by_lightning(tmp_path, board, every_n_epochs=2, every_n_steps=3)
    for expected, trained in zip(weights(alone), weights(model), strict=True):
        assert torch.equal(expected, trained)
    assert state_of(model)[1:] == state_of(alone)[1:]  # the module itself has its trainer
    tags = ["semattn/image_0", "semattn/image_1"]
    assert logged_pictures(tmp_path) == [(step, tag) for step in (0, 3, 4) for tag in tags]


def test_each_epoch_is_the_default(tmp_path: Path) -> None:
    board = TensorBoardLogger(tmp_path)
    train_by_lightning(tmp_path, board, target=[1, 2])
    steps = [step for step, tag in logged_pictures(tmp_path) if tag.endswith("1")]
    assert steps == [0, 2, 4]


class Recorder:
    """Records the calls of its methods."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.run_id = "run"

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **options: self.calls.append((name, args, options))


def test_weights_and_biases_and_mlflow_get_pictures_and_captions(tmp_path: Path) -> None:
    """The calls that the loggers of both trainers make; the libraries are not needed."""
    from semattn.integrations.lightning_callback import _sinks
    from semattn.integrations.trainer_callback import TrainerMapCallback

    maps = logger(images(1), target=3)
    drawn = maps._draw(build("class-token"))
    explained = SIFTPatchInterrelation(build("class-token")).explain(images(1), target=3)
    assert (drawn[0].picture == overlay(explained)).all()
    assert drawn[0].name == "image 0" and drawn[0].caption.startswith("class 3  ")

    wandb, mlflow = Recorder(), Recorder()
    wandb.Image = lambda picture, caption: (picture.shape, caption)
    kind = type("ReportCallback", (), {"__module__": "transformers.integrations.x"})
    reporters = [kind(), kind(), SimpleNamespace(_wandb="of somebody else")]
    reporters[0]._wandb, reporters[1]._ml_flow = wandb, mlflow
    handler = SimpleNamespace(callback_handler=SimpleNamespace(callbacks=reporters))
    for sink in TrainerMapCallback(handler, maps)._sinks():
        sink(drawn, 7)
    pictures = [((48, 64, 3), drawn[0].caption)]
    assert wandb.calls == [("log", ({"semattn": pictures, "train/global_step": 7},), {})]
    ((name, (picture,), options),) = mlflow.calls
    assert (name, options) == ("log_image", {"key": "semattn/image 0", "step": 7})
    assert picture is drawn[0].picture

    loggers = [type(name, (Recorder,), {})() for name in ("WandbLogger", "MLFlowLogger", "Other")]
    loggers[1].experiment = mlflow
    for sink in _sinks(SimpleNamespace(loggers=loggers)):
        sink(drawn, 7)
    assert loggers[0].calls == [
        ("log_image", ("semattn", [drawn[0].picture], 7), {"caption": [drawn[0].caption]})
    ]
    assert mlflow.calls[1] == (
        "log_image", ("run", drawn[0].picture), {"key": "semattn/image 0", "step": 7}
    )  # fmt: skip
    assert loggers[2].calls == []


def logger(pictures: Any, **options: Any) -> MapLogger:
    defaults = {"every_n_steps": 1, "every_n_epochs": None, "target": None, "explainer": None}
    return MapLogger(pictures, **defaults | {"select_model": None} | options)


def test_gradients_that_wait_for_the_optimizer_are_kept() -> None:
    model = build("class-token").train()
    model(images()).sum().backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    before, generator = state_of(model), torch.get_rng_state()
    logger(images()).start(model, 0, [lambda maps, step: torch.rand(3)], "")
    assert state_of(model) == before and torch.equal(torch.get_rng_state(), generator)
    for gradient, parameter in zip(expected, model.parameters(), strict=True):
        assert torch.equal(gradient, parameter.grad)


def test_an_error_ends_the_training_at_its_start_and_is_a_warning_later() -> None:
    model, drawn = build("class-token"), []
    maps = logger(images(), explainer=RawAttention())
    maps.start(model, 0, [lambda maps, step: drawn.append(step)], "")
    with torch.no_grad():
        model.head.weight.fill_(torch.nan)
    with pytest.warns(UserWarning, match="No maps were logged at step 1: "):
        maps.at_step(model, 1, [lambda maps, step: drawn.append(step)])
    assert drawn == [0]
    with pytest.raises(ShapeError):
        logger(images()[..., 0]).start(model, 0, [lambda maps, step: None], "")


def test_a_trainer_without_a_logger_for_pictures_is_told(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="expected a logger for TensorBoard, .*, got none$"):
        train_by_transformers(tmp_path, "none", every_n_epochs=1)
    csv = CSVLogger(tmp_path)
    with pytest.warns(UserWarning, match="got CSVLogger"):
        train_by_lightning(tmp_path, csv, every_n_epochs=1)


def test_what_cannot_be_logged_is_refused() -> None:
    with pytest.raises(TypeError, match="trainer: expected a Trainer of .*, got list"):
        log_maps([], images())
    with pytest.raises(ValueError, match="every_n_steps: expected"):
        log_maps([], images(), every_n_steps=0)
    sharded = build("class-token")
    sharded.head.weight.ds_id = 1
    with pytest.raises(UnsupportedModelError, match="got parts of head.weight — explain checkp"):
        check_whole_weights(sharded)
