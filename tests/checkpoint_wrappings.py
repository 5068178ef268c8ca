"""One state dict in every wrapping that training scripts write.

Plain functions of a seed, for tests and for long runs: each case says how `semattn.zoo.load` finds
the weights in the file.
"""

from __future__ import annotations

import argparse
import datetime as dt
import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

State = dict[str, Tensor]

PREFIXES = (
    "", "module.", "_orig_mod.", "model.", "net.", "backbone.", "encoder.", "module._orig_mod.",
    "_orig_mod.module.", "model.backbone.", "student.backbone.", "teacher.", "model.net.module.",
    "_fsdp_wrapped_module.", "network.0.",
)  # fmt: skip


@dataclass(frozen=True)
class Wrapping:
    """A file of weights, and how to load them.

    `choice` is the label after ``FILE#``, "" where there is one set of weights; `choices` are the
    labels that a refusal must name where none is given.
    """

    name: str
    file: Path
    choice: str
    choices: tuple[str, ...]

    @property
    def given(self) -> str:
        """The argument of `load`."""
        return f"{self.file}#{self.choice}" if self.choice else str(self.file)


def prefixed(state: State, prefix: str) -> State:
    return OrderedDict((prefix + key, tensor) for key, tensor in state.items())


def wrapped_inside(state: State) -> State:
    """As torch's activation checkpointing and compiled blocks name their weights."""
    return {key.replace("blocks.0.", "blocks.0._orig_mod."): item for key, item in state.items()}


def optimizer_state(state: State) -> dict[str, Any]:
    moments = {
        number: {"step": torch.tensor(3.0), "exp_avg": torch.zeros_like(tensor)}
        for number, tensor in enumerate(list(state.values())[:3])
    }
    return {"state": moments, "param_groups": [{"lr": 0.1, "params": [0, 1, 2]}]}


def timm_training(state: State, other: State) -> dict[str, Any]:
    return {
        "epoch": 3, "arch": "test_vit", "state_dict": other, "state_dict_ema": state,
        "optimizer": optimizer_state(state), "version": 2, "metric": np.float64(81.25),
        "args": argparse.Namespace(model="test_vit", lr=0.1, output=Path("out")),
    }  # fmt: skip


def deit_training(state: State, _: State) -> dict[str, Any]:
    return {
        "model": state, "optimizer": optimizer_state(state), "epoch": 3, "lr_scheduler": {"t": 3},
        "scaler": {"scale": 65536.0, "growth_factor": 2.0},
        "args": argparse.Namespace(batch_size=64, data_path=Path("/data"), seed=0),
    }  # fmt: skip


def lightning(state: State, _: State) -> dict[str, Any]:
    extra = {
        "criterion.weight": torch.ones(5),
        "train_acc.tp": torch.zeros(5, dtype=torch.long),
        "normalize.mean": torch.zeros(3),
    }
    return {
        "epoch": 1, "global_step": 10, "pytorch-lightning_version": "2.5.0",
        "state_dict": prefixed(state, "model.") | extra, "loops": {}, "callbacks": {},
        "optimizer_states": [optimizer_state(state)], "hyper_parameters": {"lr": 0.1, "name": "x"},
    }  # fmt: skip


def with_date(state: State, _: State) -> dict[str, Any]:
    return {"state_dict": state, "date": dt.datetime(2025, 1, 2), "seconds": np.float32(2)}  # noqa: DTZ001


def split_classifier(state: State, _: State) -> State:
    return {key if key.startswith("head.") else f"backbone.{key}": t for key, t in state.items()}


# name -> (content of (state, other), the label to choose, all labels); the weights are `state`.
CONTENTS: dict[str, tuple[Callable[[State, State], Any], str, tuple[str, ...]]] = {
    **{
        f"prefix {prefix}": (lambda state, _, p=prefix: prefixed(state, p), "", ())
        for prefix in PREFIXES
    },
    **{
        f"entry {entry}": (lambda state, _, e=entry: {e: state, "epoch": 3}, "", ())
        for entry in (
            "state_dict", "model", "state_dict_ema", "model_ema", "ema", "teacher", "student",
            "network", "weights", "model_state_dict", "module",
        )
    },
    "timm": (timm_training, "state_dict_ema", ("state_dict", "state_dict_ema")),
    "timm, compiled": (
        lambda state, other: timm_training(
            prefixed(state, "module._orig_mod."), prefixed(other, "_orig_mod.")
        ),
        "state_dict_ema", ("state_dict", "state_dict_ema"),
    ),
    "DeiT or MAE": (deit_training, "", ()),
    "DeiT with EMA": (
        lambda state, other: deit_training(other, state) | {"model_ema": state},
        "model_ema", ("model", "model_ema"),
    ),
    "Lightning": (lightning, "", ()),
    "date": (with_date, "", ()),
    "DINO": (
        lambda state, other: {
            "teacher": prefixed(state, "backbone.") | {"head.mlp.0.weight": torch.ones(3)},
            "student": prefixed(other, "module.backbone."), "args": argparse.Namespace(),
        },
        "teacher", ("teacher", "student"),
    ),
    "teacher and student in one": (
        lambda state, other: {
            "state_dict": prefixed(state, "teacher.") | prefixed(other, "student.")
        },
        "teacher", ("state_dict.teacher", "state_dict.student"),
    ),
    "plain and teacher": (
        lambda state, other: {**state, **prefixed(other, "teacher.")}, ".", (".", "teacher"),
    ),
    "equal twice": (lambda state, _: {"model": state, "ema": {**state}}, "", ()),
    "averaged by torch": (
        lambda state, _: prefixed(state, "module.") | {"n_averaged": torch.tensor(4)}, "", (),
    ),
    "inside": (lambda state, _: {"model": wrapped_inside(state)}, "", ()),
    "classifier outside": (split_classifier, "", ()),
    "nested": (lambda state, _: {"models": {"backbone": prefixed(state, "module.")}}, "", ()),
}  # fmt: skip


def write_wrapping(name: str, folder: Path, state: State, other: State) -> Wrapping:
    """Write the file of that name."""
    content, choice, choices = CONTENTS[name]
    file = folder / f"{''.join(c if c.isalnum() else '-' for c in name)}.pth"
    torch.save(content(state, other), file)
    return Wrapping(name, file, choice, choices)


def random_wrapping(seed: int, folder: Path, state: State, other: State) -> Wrapping:
    """Write a file in a wrapping that the seed draws: prefixes, entries, other sets, file types."""
    rng = random.Random(seed)
    prefix = "".join(rng.sample(("module.", "_orig_mod.", "model.", "net.", "backbone."),
                                rng.randrange(4)))  # fmt: skip
    content: Any = prefixed(wrapped_inside(state) if rng.random() < 0.2 else state, prefix)
    if prefix.replace("_orig_mod.", "") and rng.random() < 0.5:
        content |= {"loss.weight": torch.ones(2), "projector.0.weight": torch.ones(2, 2)}
    file = folder / f"wrapping-{seed}"
    if rng.random() < 0.25:
        file = file.with_suffix(".safetensors")
        save_file({key: tensor.clone() for key, tensor in content.items()}, file)
        return Wrapping(f"seed {seed}", file, "", ())
    file = file.with_suffix(rng.choice((".pt", ".pth", ".ckpt", "")))
    entries = rng.sample(("state_dict", "model", "state_dict_ema", "teacher", "network"), 2)
    choice, choices = "", ()
    if rng.random() < 0.8:
        content = {entries[0]: content, "epoch": rng.randrange(9)}
        if rng.random() < 0.5:
            content |= {"args": argparse.Namespace(lr=rng.random(), out=Path("x"))}
        if rng.random() < 0.5:
            content |= {"optimizer": optimizer_state(state), "best": np.float64(rng.random())}
        if rng.random() < 0.4:
            second = "".join(rng.sample(("module.", "_orig_mod."), rng.randrange(3)))
            content[entries[1]] = prefixed(other, second)
            choice, choices = entries[0], tuple(entries)
    torch.save(content, file, _use_new_zipfile_serialization=rng.random() < 0.7)
    return Wrapping(f"seed {seed}", file, choice, choices)
