"""Fuzzing areas: files that semattn stores, and checkpoints."""

from __future__ import annotations

import io
import itertools
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save, save_file
from torch import nn

from semattn.explain.explanation import load_maps, save_maps
from semattn.interrelation import analyze, load_analysis
from semattn.masking import KeypointCache
from semattn.spurious import (
    Discovery,
    Rank,
    load_discovery,
    load_marks,
    save_discovery,
    save_marks,
)
from semattn.utils.run_store import RunStore
from semattn.zoo import build, load
from tests import marked

from .fuzzing import NAMES, Attempt, Generator, mutate, pick
from .fuzzing_models import make_models
from .fuzzing_patches import random_pixels


class Bomb:
    """Object that runs a command when it is unpickled."""

    marker: Path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (f"touch '{self.marker}'",)


def make_npz(arrays: dict[str, Any], rng: Generator) -> bytes:
    """Return an npz of arrays, some with false sizes or with objects."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, value in arrays.items():
            inner = io.BytesIO()
            np.lib.format.write_array(inner, np.asanyarray(value), allow_pickle=True)
            data = inner.getvalue()
            if rng.random() < 0.3:
                data = mutate(data, rng)
            archive.writestr(f"{key}.npy", data)
    return stream.getvalue()


def header(shape: tuple[int, ...], kind: str) -> bytes:
    """Return an npy header that claims a shape, without data."""
    stream = io.BytesIO()
    npy_header = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(stream, npy_header)  # type: ignore[no-untyped-call]
    return stream.getvalue()


def stored_files(work: Path) -> Attempt:
    """Return the attempt on damaged maps, analyses, searches, run stores and keypoint caches."""
    zip_bomb()  # slow; cached
    rng = np.random.default_rng(0)
    model = make_models()[0]
    x = torch.from_numpy(random_pixels(rng, 2, 32, 48)).permute(0, 3, 1, 2) / 255
    good_dir = work / "good"
    good_dir.mkdir()
    save_maps(_explain(model, x), good_dir / "maps")
    analyze(model, x, n_null=2, n_bootstrap=3).save(good_dir / "analysis.npz")
    empty = Discovery((), (Rank(0, "cat", 3, 0.0),), 3, 1, 0.5, 0.05, (), ("note",), {"model": "x"})
    save_discovery(empty, good_dir / "discovery.npz")
    save_marks(marked.discovery(marked.mark()), good_dir / "marks.npz")
    store = RunStore(good_dir / "store", {"a": 1}, "search")
    store.store_arrays("one", {"x": np.zeros(3)})
    store.store_row("two", {"y": 1})
    KeypointCache.build(list(random_pixels(rng, 3, 32, 32)), good_dir / "cache", workers=1)
    loaders: dict[str, Callable[[Path], object]] = {
        "maps": load_maps,
        "analysis.npz": load_analysis,
        "discovery.npz": load_discovery,
        "marks.npz": load_marks,
        "store/one.npz": lambda file: RunStore(file.parent, {"a": 1}, "search").read_arrays("one"),
        "store/two.json": lambda file: RunStore(file.parent, {"a": 1}, "search").read_row("two"),
        "store/about.json": lambda file: RunStore(file.parent, {"a": 1}, "search"),
        "cache/keypoints.json": lambda file: KeypointCache(file.parent)[0],
        "cache/keypoints-00000.safetensors": lambda file: KeypointCache(file.parent)[2],
    }
    originals = {name: (good_dir / name).read_bytes() for name in loaders}
    damaged_dir = work / "tried"
    shutil.copytree(good_dir, damaged_dir)

    def attempt(rng: Generator) -> None:
        name = pick(rng, sorted(loaders))
        file = damaged_dir / name
        kind = rng.random()
        if kind < 0.6 or (kind < 0.9 and not name.endswith("npz")):
            data = mutate(originals[name], rng, tuple(originals.values()))
        elif kind < 0.9:
            with np.load(good_dir / name) as opened:
                data = make_npz(change_arrays(dict(opened), rng), rng)
        else:
            data = forgery(rng, work / "ran")
        file.write_bytes(data)
        try:
            loaders[name](file)
        finally:
            file.write_bytes(originals[name])
            assert not (work / "ran").exists(), "a file was run"

    return attempt


def _explain(model: nn.Module, x: torch.Tensor) -> Any:
    from semattn import RawAttention

    return RawAttention(model).explain(x)


def change_arrays(arrays: dict[str, Any], rng: Generator) -> dict[str, Any]:
    """Return the arrays with one missing, of another shape or type, or with other content."""
    key = pick(rng, sorted(arrays))
    kind = rng.integers(6)
    if kind == 0:
        del arrays[key]
    elif kind == 1:
        arrays[key] = np.array(["x"])
    elif kind == 2:
        arrays[key] = arrays[key].astype(object)
    elif kind == 3:
        arrays[key] = np.zeros(pick(rng, ((), (0,), (2, 2, 2, 2, 2))))
    elif kind == 4:
        arrays["more"] = np.zeros(3)
    elif "about" in arrays:
        text = arrays["about"]
        about_text = text.tobytes().decode() if text.dtype == np.uint8 else str(text)
        about = json.loads(about_text)
        about[pick(rng, sorted(about))] = pick(rng, (None, -1, "x", [], {}, [[1]], 1e300, True))
        about_text = json.dumps(about) if rng.random() < 0.7 else "[" * 100_000
        bytes_of = np.frombuffer(about_text.encode(), np.uint8)
        arrays["about"] = bytes_of if text.dtype == np.uint8 else np.array(about_text)
    return arrays


def forgery(rng: Generator, marker: Path) -> bytes:
    """Return a file that an attacker might make."""
    bomb = Bomb()
    bomb.marker = marker
    kind = rng.integers(9)
    stream = io.BytesIO()
    if kind == 0:
        return pickle.dumps({"x": bomb}, protocol=int(rng.integers(0, 6)))
    if kind == 1:
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            claim = pick(rng, ((2**60,), (2**33,), (2**20, 2**20), (2**63,), (-5,)))
            for name in ("about.npy", "x.npy", "images.npy"):
                archive.writestr(name, header(claim, pick(rng, ("<f8", "|u1", "<U9999", "|O"))))
    elif kind == 2:
        np.savez(stream, about=np.array([bomb]), x=np.array([bomb], dtype=object))
    elif kind == 3:
        torch.save({"x": bomb, "w": torch.zeros(2)}, stream)
    elif kind == 4:
        length = pick(rng, (0, 8, 100, 2**40, 2**63))
        return length.to_bytes(8, "little") + pick(rng, (b"{}", b"[" * 50_000, b'{"x":', b""))
    elif kind == 5:
        npy_header = {"x": {"dtype": pick(rng, ("F32", "F9", "BOOL")), "shape": [2**40, 2**40],
                       "data_offsets": [0, pick(rng, (4, 2**40, -1))]}}  # fmt: skip
        text = json.dumps(npy_header).encode()
        return len(text).to_bytes(8, "little") + text + b"\0" * 4
    elif kind == 6:
        return save({"heat_map": torch.zeros(2, 3)}, {"format": "semattn maps 1", "about": "{}"})
    elif kind == 7:
        return zip_bomb()
    else:
        return pick(
            rng, (b"", b"null", b"[]", b"1", b"{}", b"[" * 100_000, b'{"digest": []}', b"\0")
        )
    return stream.getvalue()


@cache
def zip_bomb() -> bytes:
    """Return an npz that is a thousand times larger when it is unpacked."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in ("about", "x", "images", "layers", "sums"):
            archive.writestr(f"{name}.npy", header((2**28,), "|u1") + bytes(2**28))
    return stream.getvalue()


def checkpoint_files(work: Path) -> Attempt:
    """Return the attempt on weights that are damaged, of other shapes, or that would run code."""
    zip_bomb()  # slow; cached
    plain = {"img_size": 32, "depth": 1, "num_classes": 3}
    create_model = build.timm.create_model

    def small(name: str, **options: Any) -> nn.Module:
        return create_model("test_vit", **plain | {"num_classes": options.get("num_classes", 3)})

    state = {key: tensor.half() for key, tensor in small("test_vit").state_dict().items()}
    stream = io.BytesIO()
    torch.save(state, stream)
    valid_files = (stream.getvalue(), save(state))
    turn = itertools.count()
    file = work / "weights"

    def attempt(rng: Generator) -> None:
        kind = rng.random()
        path = file.with_suffix(pick(rng, (".pt", ".safetensors", "")))
        if kind < 0.5:
            path.write_bytes(mutate(pick(rng, valid_files), rng, valid_files))
        elif kind < 0.8:
            changed_state = odd_state(dict(state), rng)
            if path.suffix == ".safetensors" and isinstance(changed_state, dict):
                try:
                    save_file(changed_state, path)
                except Exception:  # noqa: BLE001 — safetensors cannot store it
                    path.write_bytes(valid_files[1])
            else:
                torch.save(changed_state, path)
        else:
            path.write_bytes(forgery(rng, work / "ran"))
        build.timm.create_model = small
        try:
            if next(turn) % 500 == 0:
                load(pick(rng, NAMES), checkpoint=path)
            model = load("test_vit", checkpoint=path)
            assert model.num_classes < 1000
        finally:
            build.timm.create_model = create_model
            assert not (work / "ran").exists(), "a file was run"
            path.unlink()

    return attempt


def odd_state(state: dict[str, Any], rng: Generator) -> Any:
    """Return a state dict that does not fit the model."""
    key = pick(rng, (*sorted(state), *("head.weight", "head.bias") * 9))
    tensor = state[key]
    if rng.random() < 0.2:
        wrapped: dict[Any, Any] = {1: tensor}
        return pick(rng, ([], None, {"state_dict": state}, {"model": 3}, {"model": {}}, wrapped,
                          {f"module.{name}": value for name, value in state.items()}))  # fmt: skip
    del state[key]
    name = key if rng.random() < 0.8 else pick(rng, NAMES)
    shapes = ((), (0,), (1,), (7, tensor.shape[-1]), (2, 2, 2))
    state[name] = pick(rng, (
        torch.zeros(pick(rng, shapes)), torch.zeros(pick(rng, shapes)),
        torch.zeros(1).expand(10**9, *tensor.shape[1:]), tensor.to(torch.complex64),
        tensor.double(), tensor.to(pick(rng, (torch.int64, torch.bool))),
        tensor.float().to_sparse(), None, "x", 3, [tensor], {"a": tensor},
        tensor * float("nan"), tensor.to("meta"),
    ))  # fmt: skip
    return state
