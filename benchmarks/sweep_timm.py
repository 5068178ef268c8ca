"""Try every ViT-like architecture of timm: is it read, refused by name, or got wrong?

    python -m benchmarks.sweep_timm [--only REGEX] [--again REGEX] [--limit-gb 8]

Each model is built with random weights at its own input size, its depth cut where its constructor
lets, in a process of its own. *Works* means that the map of the default explainer is finite, varies
over the patches, changes with the target, and lies where the pixels are (a changed block of pixels
moves the keys of the first layer that are said to lie there); that the logits are those of the
model alone; that nothing is left on the model; and that the maps of its *twins*, which flip or
transpose the picture inside the model, are its own maps of the flipped or transposed picture,
turned back. A refusal names the module. All else is *wrong*. A twin that is refused, though its
model is not, is counted in the row under `twins`.

The result goes to semattn/zoo/assets/models.json after every model: an interrupted run is
resumed by the same command. `semattn models` and docs/models.md show it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parents[1] / "semattn" / "zoo" / "assets" / "models.json"

# The modules of timm whose models mix tokens by attention, in some or all of their layers.
MODULES = (
    "beit", "cait", "coat", "convit", "crossvit", "csatv2", "davit", "deepseek_vit", "deit",
    "edgenext", "efficientformer", "efficientformer_v2", "efficientvit_mit", "efficientvit_msra",
    "eva", "fastvit", "gcvit", "gemma4_vit", "hiera", "hieradet_sam2", "iformer", "levit",
    "lowformer", "maxxvit", "metaformer", "mobilevit", "mvitv2", "naflexvit", "nest", "nextvit",
    "pit", "pvt_v2", "shvit", "swiftformer", "swin_transformer", "swin_transformer_v2",
    "swin_transformer_v2_cr", "tiny_vit", "tnt", "twins", "visformer", "vision_transformer",
    "vision_transformer_hybrid", "vision_transformer_relpos", "vision_transformer_sam", "vitamin",
    "volo", "xcit",
)  # fmt: skip
CLASSES = 10
DEPTH = 2  # layers kept of a plain model, and of each stage of a hierarchical one
CELLS = 2.0  # patches that the centre of the change may be away, convolutions and all
SECONDS = 900
TWIN_TOLERANCE = 1e-3  # of the maximum: how far the map of a twin may be from that of its model


def names() -> dict[str, str]:
    """Every ViT-like architecture, and its module."""
    import timm
    from timm.models import is_model_in_modules

    return {
        name: module
        for name in timm.list_models()
        for module in MODULES
        if is_model_in_modules(name, [module])
    }


def build(name: str, module: str, *, shorten: bool = True) -> tuple[Any, str]:
    """The model, cut in depth if its constructor lets, and how it was cut."""
    import importlib

    import timm
    import torch

    source = importlib.import_module(f"timm.models.{module}")
    caught: dict[str, Any] = {}
    usual = source.build_model_with_cfg

    def note(*_: Any, **options: Any) -> None:
        caught.update(options)
        raise InterruptedError

    source.build_model_with_cfg = note
    try:
        timm.create_model(name)
    except InterruptedError:
        pass
    finally:
        source.build_model_with_cfg = usual
    cut = {
        key: _cut(caught[key])
        for key in ("depth", "depths", "stages", "layers")
        if shorten and key in caught and _cut(caught[key]) != caught[key]
    }
    torch.manual_seed(0)
    for options in ({"num_classes": CLASSES, **cut}, {"num_classes": CLASSES}, {}):
        try:
            model = timm.create_model(name, **options)
        except (
            TypeError, ValueError, LookupError, ArithmeticError, AssertionError, RuntimeError,
            StopIteration,
        ):  # fmt: skip
            if not options:
                raise
            continue
        kept = {key: value for key, value in options.items() if key != "num_classes"}
        break
    with torch.no_grad():
        for parameter in model.parameters():  # nothing stays at zero, nothing at one
            parameter.add_(torch.randn_like(parameter) * (0.02 if parameter.ndim > 1 else 0.1))
    return model.eval(), ", ".join(f"{key}={value}" for key, value in kept.items())


def _cut(depth: Any) -> Any:
    if isinstance(depth, int):
        return min(depth, DEPTH)
    if isinstance(depth, (tuple, list)):
        return type(depth)(min(one, DEPTH) if isinstance(one, int) else _cut(one) for one in depth)
    return depth


def attempt(name: str, module: str) -> dict[str, Any]:
    """Build and explain one model: its row of the result."""
    import torch

    from semattn.errors import SemattnError

    torch.set_num_threads(1)
    model, cut = build(name, module)
    config = model.pretrained_cfg
    channels, height, width = config["input_size"]
    if getattr(model, "patch_embed", None) is not None and hasattr(model.patch_embed, "img_size"):
        height, width = model.patch_embed.img_size or (height, width)
    coarse = torch.rand(2, channels, 12, 12, generator=torch.manual_seed(1))
    x = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    try:
        with torch.no_grad():
            model(x)
    except (ValueError, LookupError, ArithmeticError, RuntimeError):
        if not cut:
            raise
        model, cut = build(name, module, shorten=False)  # some cannot run when they are cut
    row: dict[str, Any] = {"cut": cut} if cut else {}
    row["input"] = [height, width]
    try:
        return row | _explained(model, x)
    except SemattnError as refusal:
        return row | {"status": "refused", "reason": str(refusal)}


def _explained(model: Any, x: Any) -> dict[str, Any]:
    import torch

    from semattn import SIFTPatchInterrelation, record

    before = _state(model)
    with torch.no_grad():
        logits = model(x)
    classes = logits.ndim == 2 and logits.shape[1] == CLASSES
    explainer = SIFTPatchInterrelation(model)
    maps, shape, zero = _maps(explainer, x, (*range(1, CLASSES), 0) if classes else (None,))
    wrong = []
    if any(not one.isfinite().all() for one in maps.values()):
        wrong.append("non-finite")
    if not maps:
        wrong.append("constant")
    if classes and len(maps) == 2:
        first, second = maps.values()
        moved = (first - second).flatten(1).norm(dim=1) / first.flatten(1).norm(dim=1)
        if not bool((moved > 1e-4).all()):
            wrong.append("indifferent to the target")
    taken = record(model, x, layers="all", grad=False)
    if isinstance(logits, torch.Tensor):
        apart = float((taken.logits - logits).abs().max() / logits.abs().max())
        if apart > 1e-4:
            wrong.append(f"different logits ({apart:.1e})")
    away = _away(model, x, taken)
    if away is not None and away > CELLS:
        wrong.append(f"misplaced by {away:.1f} patches")
    twins = _twins(model, x, next(iter(maps), None))
    wrong += [f"twin ({turn}): {outcome}" for turn, outcome in twins.items() if "wrong" in outcome]
    if _state(model) != before:
        wrong.append("something left on the model")
    return {
        "status": "wrong" if wrong else "works",
        **({"reason": "; ".join(wrong)} if wrong else {}),
        "patches": [*shape],
        "prefix": taken.grid.prefix,
        "layers": len({one.site.name for one in taken.sites}),
        **({} if away is None else {"away": round(away, 2)}),
        **({"zero_map_for_targets": zero} if zero else {}),
        "twins": twins,
        **(
            {"left_out": sorted({site.module for site in taken.left_out})} if taken.left_out else {}
        ),
    }


def _maps(
    explainer: Any, x: Any, targets: Any
) -> tuple[dict[Any, Any], tuple[int, int], list[int]]:
    """Return the maps of the first two targets that have one, their shape, the targets passed over.

    Where no attention weight has a positive gradient the map is 0, and its note says so. Such a map
    would make every comparison below true.
    """
    maps: dict[Any, Any] = {}
    zero = []
    for target in targets:
        map_ = explainer.patch_map(x, target=target)
        patches = map_.flatten(1)
        if bool((patches == 0).all(dim=1).any()):
            zero.append(target)
        elif not bool((patches.std(dim=1) <= 1e-6 * patches.mean(dim=1)).any()):
            maps[target] = map_
        if len(maps) == 2:
            break
    return maps, tuple(map_.shape[1:]), zero


def _twins(model: Any, x: Any, target: int | None) -> dict[str, str]:
    """Compare the maps of models that turn the picture inside: "equal", "refused …" or "wrong …".

    SIFT finds other keypoints on a turned picture, so the map is compared without them.
    """
    from semattn import SIFTPatchInterrelation
    from semattn.errors import SemattnError

    explainer = SIFTPatchInterrelation(density="uniform", head_alignment=False, query_weights=False)
    turns: dict[str, Any] = {"flip": lambda images: images.flip(-1)}
    if x.shape[-1] == x.shape[-2]:
        turns["transpose"] = lambda images: images.transpose(-1, -2)
    outcomes = {}
    for name, turn in turns.items():
        expected = explainer.patch_map(model, turn(x), target=target)
        try:
            value = explainer.patch_map(_turned(model, turn), x, target=target)
        except SemattnError as refusal:
            outcomes[name] = f"refused: {refusal}"
            continue
        apart = float((turn(value) - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
        outcomes[name] = "equal" if apart <= TWIN_TOLERANCE else f"wrong by {apart:.1e}"
    return outcomes


def _turned(model: Any, turn: Any) -> Any:
    """The model as a part of one that turns its pictures first."""
    from torch import nn

    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Any) -> Any:
            return self.model(turn(images))

    return Turned().eval()


def _away(model: Any, x: Any, taken: Any) -> float | None:
    """How far the first layer's keys that a block of pixels moves lie from it, in patches."""
    import torch

    from semattn.attention.hooks import FusedCall, attach
    from semattn.attention.model_call import ModelCall
    from semattn.attention.model_layout import model_layout

    first = next((one for one in taken.sites if one.site.kind == "self"), None)
    if first is None:
        return None
    known, calls = model_layout(model, ModelCall((x,), {}, 0)), []

    def see(site: Any, call: Any) -> Any:
        if site.name == first.site.name:
            calls.append(call)
        return call.run()

    own = first.keys_at.own
    row, column = own.shape[0] // 3, own.shape[1] // 2
    top, left = round(row * own.cell[0]), round(column * own.cell[1])
    bottom, right = round((row + 1) * own.cell[0]), round((column + 1) * own.cell[1])
    moved = x.clone()
    moved[:, :, top:bottom, left:right] = 1 - moved[:, :, top:bottom, left:right]
    with torch.no_grad(), attach(known.modules(model), see):
        model(x)
        model(moved)
    one, two = calls
    if isinstance(one, FusedCall):
        change = (two.key - one.key).abs().sum(dim=-1)
        if change.shape[:-1] != one.query.shape[:-2]:  # heads that share their keys
            change = change.mean(dim=1, keepdim=True)
    else:
        change = (two.scores - one.scores).abs().amin(dim=-2)
    layout = known.layouts[first.site.name]
    folded = layout.fold(change[..., None], one.shape[:-2])[..., 0]
    placed = first.keys_at.collect(folded).sum(dim=1)
    grid = taken.grid
    weight = grid.drop_prefix(placed)[0]
    weight = (weight - weight.quantile(0.9)).clamp(min=0)
    if not weight.any():
        return None
    centre = (weight[:, None] * grid.centers()).sum(dim=0) / weight.sum()
    block = torch.tensor([(left + right - 1) / 2, (top + bottom - 1) / 2])
    return float(((centre - block).abs() / torch.tensor(own.cell[::-1])).max())


def _state(model: Any) -> list[Any]:
    modules = [
        (
            name,
            one.training,
            len(one._forward_hooks),
            len(one._forward_pre_hooks),
            len(one._backward_hooks),
            getattr(one, "fused_attn", None),
            sorted(vars(one)),
        )
        for name, one in model.named_modules()
    ]
    return modules + [(n, p.requires_grad, p.grad is None) for n, p in model.named_parameters()]


def _child(name: str, module: str, pipe: Any) -> None:
    import warnings

    warnings.simplefilter("ignore")
    try:
        pipe.send(attempt(name, module))
    except Exception as error:  # noqa: BLE001 — whatever goes wrong is the row's result
        where = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        pipe.send({"status": "wrong", "reason": f"{said} ({Path(where.filename).name})"})


def watched(name: str, module: str, limit: float) -> dict[str, Any]:
    """One attempt in a process of its own, ended when it takes too much memory or time."""
    receive, send = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_child, args=(name, module, send))
    process.start()
    start, too_much = time.monotonic(), None
    while process.is_alive() and not receive.poll(0.2):
        if _resident(process.pid) > limit * 2**30:
            too_much = f"does not fit {limit:g} GB"
        elif time.monotonic() - start > SECONDS:
            too_much = f"takes longer than {SECONDS} s"
        if too_much:
            process.kill()
            break
    row = receive.recv() if receive.poll(0.2) else None
    process.join()
    if row is None:
        row = {"status": "not tried", "reason": too_much or f"ended with status {process.exitcode}"}
    return row


def _resident(pid: int | None) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
    except (OSError, IndexError):
        return 0


def main() -> None:
    """Try what has not been tried, and say how it stands."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="names that match this regular expression")
    parser.add_argument("--again", help="try these again, though they have a result")
    parser.add_argument("--limit-gb", type=float, default=8.0)
    options = parser.parse_args()

    import timm
    import torch

    done = json.loads(RESULT.read_text()) if RESULT.exists() else {"models": {}}
    everything = names()
    rows = {name: row for name, row in done["models"].items() if name in everything}
    for number, (name, module) in enumerate(everything.items(), 1):
        again = options.again is not None and re.search(options.again, name)
        if not re.search(options.only, name) or (name in rows and not again):
            continue
        start = time.monotonic()
        rows[name] = {"family": module, **watched(name, module, options.limit_gb)}
        print(
            f"{number}/{len(everything)} {name}: {rows[name]['status']} "
            f"{rows[name].get('reason', '')} ({time.monotonic() - start:.0f} s)",
            flush=True,
        )
        result = {
            "timm": timm.__version__,
            "torch": torch.__version__.split("+")[0],
            "explainer": "sift-patch-interrelation",
            "limit_gb": options.limit_gb,
            "models": dict(sorted(rows.items())),
        }
        fresh = RESULT.with_suffix(".part")
        fresh.write_text(json.dumps(result, indent=0) + "\n", encoding="utf-8")
        fresh.replace(RESULT)
    counts = Counter(row["status"] for row in rows.values())
    print(f"{len(rows)} of {len(everything)}: {dict(counts)}")
    sys.exit(bool(counts["wrong"]))


if __name__ == "__main__":
    main()
