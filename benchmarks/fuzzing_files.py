"""Areas of hostile files: what semattn keeps on the disk, and weights."""

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

from semattn.explain.map_files import load_maps, save_maps
from semattn.interrelation import analyze, load_analysis
from semattn.masking import KeypointCache
from semattn.spurious import Discovery, Rank, load_discovery, save_discovery
from semattn.utils.run_store import Shelf
from semattn.zoo import build

from .fuzzing import NAMES, Chance, Try, mutated, pick
from .fuzzing_models import models
from .fuzzing_patches import smooth


class Bomb:
    """What runs when it is unpickled."""

    ran: Path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (f"touch '{self.ran}'",)


def archive_of(arrays: dict[str, Any], rng: Chance) -> bytes:
    """An npz of arrays, some of which lie of their size or hold objects."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as made:
        for key, value in arrays.items():
            inner = io.BytesIO()
            np.lib.format.write_array(inner, np.asanyarray(value), allow_pickle=True)
            data = inner.getvalue()
            if rng.random() < 0.3:
                data = mutated(data, rng)
            made.writestr(f"{key}.npy", data)
    return stream.getvalue()


def header(shape: tuple[int, ...], kind: str) -> bytes:
    """A header of npy that claims a shape, with nothing behind it."""
    stream = io.BytesIO()
    about = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(stream, about)  # type: ignore[no-untyped-call]
    return stream.getvalue()


def kept(work: Path) -> Try:
    """What semattn wrote, damaged and forged: maps, analyses, searches, shelves, keypoints."""
    swollen()  # takes long, once
    rng = np.random.default_rng(0)
    model = models()[0]
    x = torch.from_numpy(smooth(rng, 2, 32, 48)).permute(0, 3, 1, 2) / 255
    good = work / "good"
    good.mkdir()
    save_maps(_explained(model, x), good / "maps")
    analyze(model, x, draws=2, replicates=3).save(good / "analysis.npz")
    empty = Discovery((), (Rank(0, "cat", 3, 0.0),), 3, 1, 0.5, 0.05, (), ("note",), {"model": "x"})
    save_discovery(empty, good / "discovery.npz")
    shelf = Shelf(good / "shelf", {"a": 1}, "search")
    shelf.keep_arrays("one", {"x": np.zeros(3)})
    shelf.keep_row("two", {"y": 1})
    KeypointCache.build(list(smooth(rng, 3, 32, 32)), good / "cache", workers=1)
    readers: dict[str, Callable[[Path], object]] = {
        "maps": load_maps,
        "analysis.npz": load_analysis,
        "discovery.npz": load_discovery,
        "shelf/one.npz": lambda file: Shelf(file.parent, {"a": 1}, "search").arrays("one"),
        "shelf/two.json": lambda file: Shelf(file.parent, {"a": 1}, "search").row("two"),
        "shelf/about.json": lambda file: Shelf(file.parent, {"a": 1}, "search"),
        "cache/keypoints.json": lambda file: KeypointCache(file.parent)[0],
        "cache/keypoints-00000.safetensors": lambda file: KeypointCache(file.parent)[2],
    }
    whole = {one: (good / one).read_bytes() for one in readers}
    tried = work / "tried"
    shutil.copytree(good, tried)

    def attempt(rng: Chance) -> None:
        which = pick(rng, sorted(readers))
        file = tried / which
        kind = rng.random()
        if kind < 0.6 or (kind < 0.9 and not which.endswith("npz")):
            made = mutated(whole[which], rng, tuple(whole.values()))
        elif kind < 0.9:
            with np.load(good / which) as opened:
                made = archive_of(changed(dict(opened), rng), rng)
        else:
            made = forgery(rng, work / "ran")
        file.write_bytes(made)
        try:
            readers[which](file)
        finally:
            file.write_bytes(whole[which])
            assert not (work / "ran").exists(), "a file was run"

    return attempt


def _explained(model: nn.Module, x: torch.Tensor) -> Any:
    from semattn import RawAttention

    return RawAttention(model).explain(x)


def changed(arrays: dict[str, Any], rng: Chance) -> dict[str, Any]:
    """Arrays of which one is missing, of another shape or type, or says something else."""
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
        said = text.tobytes().decode() if text.dtype == np.uint8 else str(text)
        told = json.loads(said)
        told[pick(rng, sorted(told))] = pick(rng, (None, -1, "x", [], {}, [[1]], 1e300, True))
        said = json.dumps(told) if rng.random() < 0.7 else "[" * 100_000
        bytes_of = np.frombuffer(said.encode(), np.uint8)
        arrays["about"] = bytes_of if text.dtype == np.uint8 else np.array(said)
    return arrays


def forgery(rng: Chance, ran: Path) -> bytes:
    """A file made by an attacker."""
    bomb = Bomb()
    bomb.ran = ran
    kind = rng.integers(9)
    stream = io.BytesIO()
    if kind == 0:
        return pickle.dumps({"x": bomb}, protocol=int(rng.integers(0, 6)))
    if kind == 1:
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as made:
            claim = pick(rng, ((2**60,), (2**33,), (2**20, 2**20), (2**63,), (-5,)))
            for one in ("about.npy", "x.npy", "images.npy"):
                made.writestr(one, header(claim, pick(rng, ("<f8", "|u1", "<U9999", "|O"))))
    elif kind == 2:
        np.savez(stream, about=np.array([bomb]), x=np.array([bomb], dtype=object))
    elif kind == 3:
        torch.save({"x": bomb, "w": torch.zeros(2)}, stream)
    elif kind == 4:
        length = pick(rng, (0, 8, 100, 2**40, 2**63))
        return length.to_bytes(8, "little") + pick(rng, (b"{}", b"[" * 50_000, b'{"x":', b""))
    elif kind == 5:
        about = {"x": {"dtype": pick(rng, ("F32", "F9", "BOOL")), "shape": [2**40, 2**40],
                       "data_offsets": [0, pick(rng, (4, 2**40, -1))]}}  # fmt: skip
        text = json.dumps(about).encode()
        return len(text).to_bytes(8, "little") + text + b"\0" * 4
    elif kind == 6:
        return save({"heat": torch.zeros(2, 3)}, {"format": "semattn maps 1", "about": "{}"})
    elif kind == 7:
        return swollen()
    else:
        return pick(
            rng, (b"", b"null", b"[]", b"1", b"{}", b"[" * 100_000, b'{"digest": []}', b"\0")
        )
    return stream.getvalue()


@cache
def swollen() -> bytes:
    """An npz that is a thousand times as large once it is unpacked."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made:
        for one in ("about", "x", "images", "layers", "sums"):
            made.writestr(f"{one}.npy", header((2**28,), "|u1") + bytes(2**28))
    return stream.getvalue()


def checkpoints(work: Path) -> Try:
    """Weights for a model: damaged, of other shapes, and such as would run code."""
    swollen()  # takes long, once
    plain = {"img_size": 32, "depth": 1, "num_classes": 3}
    built = build.timm.create_model

    def small(name: str, **options: Any) -> nn.Module:
        return built("test_vit", **plain | {"num_classes": options.get("num_classes", 3)})

    state = {key: one.half() for key, one in small("test_vit").state_dict().items()}
    stream = io.BytesIO()
    torch.save(state, stream)
    wholes = (stream.getvalue(), save(state))
    turn = itertools.count()
    file = work / "weights"

    def attempt(rng: Chance) -> None:
        kind = rng.random()
        path = file.with_suffix(pick(rng, (".pt", ".safetensors", "")))
        if kind < 0.5:
            path.write_bytes(mutated(pick(rng, wholes), rng, wholes))
        elif kind < 0.8:
            other = odd_state(dict(state), rng)
            if path.suffix == ".safetensors" and isinstance(other, dict):
                try:
                    save_file(other, path)
                except Exception:  # noqa: BLE001 — what safetensors cannot hold
                    path.write_bytes(wholes[1])
            else:
                torch.save(other, path)
        else:
            path.write_bytes(forgery(rng, work / "ran"))
        build.timm.create_model = small
        try:
            if next(turn) % 500 == 0:
                build.load(pick(rng, NAMES), checkpoint=path)
            model = build.load("test_vit", checkpoint=path)
            assert model.num_classes < 1000
        finally:
            build.timm.create_model = built
            assert not (work / "ran").exists(), "a file was run"
            path.unlink()

    return attempt


def odd_state(state: dict[str, Any], rng: Chance) -> Any:
    """A state that is not the model's."""
    key = pick(rng, (*sorted(state), *("head.weight", "head.bias") * 9))
    one = state[key]
    if rng.random() < 0.2:
        wrapped: dict[Any, Any] = {1: one}
        return pick(rng, ([], None, {"state_dict": state}, {"model": 3}, {"model": {}}, wrapped,
                          {f"module.{name}": value for name, value in state.items()}))  # fmt: skip
    del state[key]
    name = key if rng.random() < 0.8 else pick(rng, NAMES)
    shapes = ((), (0,), (1,), (7, one.shape[-1]), (2, 2, 2))
    state[name] = pick(rng, (
        torch.zeros(pick(rng, shapes)), torch.zeros(pick(rng, shapes)),
        torch.zeros(1).expand(10**9, *one.shape[1:]), one.to(torch.complex64), one.double(),
        one.to(pick(rng, (torch.int64, torch.bool))), one.float().to_sparse(), None, "x", 3, [one],
        {"a": one}, one * float("nan"), one.to("meta"),
    ))  # fmt: skip
    return state
