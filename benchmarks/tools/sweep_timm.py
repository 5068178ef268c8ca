"""Sweep over every ViT-like architecture of timm: does it work, is it refused, or is it wrong?

    python -m benchmarks.tools.sweep_timm [--only REGEX] [--again REGEX] [--limit-gb 8]

Each model is built with random weights at its own input size, with reduced depth if its constructor
allows it, in a process of its own. *Works* means: the map of the default explainer is finite,
varies over the patches, changes with the target, and is correctly placed (a changed block of pixels
changes the keys of the first layer at that position); the logits equal those of the model alone;
the model is unchanged afterwards; and the maps of its *twins*, which flip or transpose the image
inside the model, are its own maps of the flipped or transposed image, turned back. A refusal names
the module. Everything else is *wrong*. A twin that is refused although its model is not is counted
in the row under `twins`.

The result is written to semattn/zoo/assets/models.json after every model: an interrupted run
resumes. `semattn models` and docs/models.md show it.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import ROOT

RESULT = ROOT / "semattn" / "zoo" / "assets" / "models.json"

# The modules of timm whose models mix tokens by attention, in some or all layers.
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
DEPTH = 2  # number of layers of a plain model, and of each stage of a hierarchical one
MAX_DISTANCE = 2.0  # patches between the changed block and its keys, convolutions included
TIME_LIMIT = 900
TWIN_TOLERANCE = 1e-3  # of the maximum: largest difference between the maps of model and twin


def names() -> dict[str, str]:
    """Return every ViT-like architecture and its module."""
    import timm
    from timm.models import is_model_in_modules

    return {
        name: module
        for name in timm.list_models()
        for module in MODULES
        if is_model_in_modules(name, [module])
    }


def build(name: str, module: str, *, shorten: bool = True) -> tuple[Any, str]:
    """Return the model, with reduced depth if possible, and the reduced options."""
    import importlib

    import timm
    import torch

    source = importlib.import_module(f"timm.models.{module}")
    constructor_options: dict[str, Any] = {}
    original = source.build_model_with_cfg

    def capture_options(*_: Any, **options: Any) -> None:
        constructor_options.update(options)
        raise InterruptedError

    source.build_model_with_cfg = capture_options
    try:
        timm.create_model(name)
    except InterruptedError:
        pass
    finally:
        source.build_model_with_cfg = original
    shortened = {
        key: _shorten(constructor_options[key])
        for key in ("depth", "depths", "stages", "layers")
        if shorten
        and key in constructor_options
        and _shorten(constructor_options[key]) != constructor_options[key]
    }
    torch.manual_seed(0)
    for options in ({"num_classes": CLASSES, **shortened}, {"num_classes": CLASSES}, {}):
        try:
            model = timm.create_model(name, **options)
        except (
            TypeError, ValueError, LookupError, ArithmeticError, AssertionError, RuntimeError,
            StopIteration,
        ):  # fmt: skip
            if not options:
                raise
            continue
        used_options = {key: value for key, value in options.items() if key != "num_classes"}
        break
    with torch.no_grad():
        for parameter in model.parameters():  # no parameter stays at its initial zero or one
            parameter.add_(torch.randn_like(parameter) * (0.02 if parameter.ndim > 1 else 0.1))
    return model.eval(), ", ".join(f"{key}={value}" for key, value in used_options.items())


def _shorten(depth: Any) -> Any:
    if isinstance(depth, int):
        return min(depth, DEPTH)
    if isinstance(depth, (tuple, list)):
        return type(depth)(
            min(value, DEPTH) if isinstance(value, int) else _shorten(value) for value in depth
        )
    return depth


def attempt(name: str, module: str) -> dict[str, Any]:
    """Build and explain one model; return its row of the result."""
    return explained_row(name, module, _explained)


def explained_row(
    name: str,
    module: str,
    explain: Callable[[Any, Any], dict[str, Any]],
    *,
    images: int = 2,
    prepare: Callable[[Any], Any] = lambda model: model,
) -> dict[str, Any]:
    """Build one model and explain smooth images; return its row, also for a refusal.

    Parameters
    ----------
    explain : function of the model and the images, which returns the rest of the row
    images : number of images
    prepare : applied to the model, such as a change of its dtype, which the images follow
    """
    import torch

    from semattn.errors import SemattnError

    torch.set_num_threads(1)
    model, shortened = build(name, module)
    model = prepare(model)
    channels, height, width = model.pretrained_cfg["input_size"]
    if getattr(model, "patch_embed", None) is not None and hasattr(model.patch_embed, "img_size"):
        height, width = model.patch_embed.img_size or (height, width)
    dtype = next((parameter.dtype for parameter in model.parameters()), None)
    coarse = torch.rand(images, channels, 12, 12, generator=torch.manual_seed(1), dtype=dtype)
    x = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    try:
        with torch.no_grad():
            model(x)
    except (ValueError, LookupError, ArithmeticError, RuntimeError):
        if not shortened:
            raise
        model, shortened = build(name, module, shorten=False)  # some models need their full depth
        model = prepare(model)
    row: dict[str, Any] = {"cut": shortened} if shortened else {}
    row["input"] = [height, width]
    try:
        return row | explain(model, x)
    except SemattnError as refusal:
        return row | {"status": "refused", "reason": str(refusal)}


def _explained(model: Any, x: Any) -> dict[str, Any]:
    import torch

    from semattn import SIFTPatchInterrelation, record

    state_before = _model_state(model)
    with torch.no_grad():
        logits = model(x)
    classes = logits.ndim == 2 and logits.shape[1] == CLASSES
    explainer = SIFTPatchInterrelation(model)
    maps, shape, zero = _maps(explainer, x, (*range(1, CLASSES), 0) if classes else (None,))
    faults = []
    if any(not patch_scores.isfinite().all() for patch_scores in maps.values()):
        faults.append("non-finite")
    if not maps:
        faults.append("constant")
    if classes and len(maps) == 2:
        first, second = maps.values()
        changes = (first - second).flatten(1).norm(dim=1) / first.flatten(1).norm(dim=1)
        if not bool((changes > 1e-4).all()):
            faults.append("indifferent to the target")
    attention_record = record(model, x, layers="all", grad=False)
    if isinstance(logits, torch.Tensor):
        difference = float((attention_record.logits - logits).abs().max() / logits.abs().max())
        if difference > 1e-4:
            faults.append(f"different logits ({difference:.1e})")
    distance = _distance(model, x, attention_record)
    if distance is not None and distance > MAX_DISTANCE:
        faults.append(f"misplaced by {distance:.1f} patches")
    twins = _twins(model, x, next(iter(maps), None))
    faults += [f"twin ({turn}): {outcome}" for turn, outcome in twins.items() if "wrong" in outcome]
    if _model_state(model) != state_before:
        faults.append("something left on the model")
    return {
        "status": "wrong" if faults else "works",
        **({"reason": "; ".join(faults)} if faults else {}),
        "patches": [*shape],
        "prefix": attention_record.grid.prefix,
        "layers": len({site.site.name for site in attention_record.sites}),
        **({} if distance is None else {"away": round(distance, 2)}),
        **({"zero_map_for_targets": zero} if zero else {}),
        "twins": twins,
        **(
            {"left_out": sorted({site.module for site in attention_record.left_out})}
            if attention_record.left_out
            else {}
        ),
    }


def _maps(
    explainer: Any, x: Any, targets: Any
) -> tuple[dict[Any, Any], tuple[int, int], list[int]]:
    """Return the maps of the first two targets with a map, their shape, and the skipped targets.

    Where no attention weight has a positive gradient the map is 0, and its note says so. Such a map
    would satisfy every comparison below.
    """
    maps: dict[Any, Any] = {}
    zero = []
    for target in targets:
        patch_scores = explainer.patch_map(x, target=target)
        patches = patch_scores.flatten(1)
        if bool((patches == 0).all(dim=1).any()):
            zero.append(target)
        elif not bool((patches.std(dim=1) <= 1e-6 * patches.mean(dim=1)).any()):
            maps[target] = patch_scores
        if len(maps) == 2:
            break
    return maps, tuple(patch_scores.shape[1:]), zero


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
            value = explainer.patch_map(_with_turned_input(model, turn), x, target=target)
        except SemattnError as refusal:
            outcomes[name] = f"refused: {refusal}"
            continue
        difference = float(
            (turn(value) - expected).abs().max() / expected.abs().max().clamp(min=1e-30)
        )
        outcomes[name] = "equal" if difference <= TWIN_TOLERANCE else f"wrong by {difference:.1e}"
    return outcomes


def _with_turned_input(model: Any, turn: Any) -> Any:
    """Return the model inside a module that turns the images first."""
    from torch import nn

    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Any) -> Any:
            return self.model(turn(images))

    return Turned().eval()


def _distance(model: Any, x: Any, attention_record: Any) -> float | None:
    """Return the distance between a changed block of pixels and the changed keys, in patches."""
    import torch

    from semattn.attention.hooks import FusedCall, attach
    from semattn.attention.model_call import ModelCall
    from semattn.attention.model_layout import model_layout

    first_site = next((site for site in attention_record.sites if site.site.kind == "self"), None)
    if first_site is None:
        return None
    layout_of_model, calls = model_layout(model, ModelCall.of(x)), []

    def capture_call(site: Any, call: Any) -> Any:
        if site.name == first_site.site.name:
            calls.append(call)
        return call.run()

    input_grid = first_site.keys_at.call_grid
    row, column = input_grid.shape[0] // 3, input_grid.shape[1] // 2
    top, left = round(row * input_grid.cell[0]), round(column * input_grid.cell[1])
    bottom, right = round((row + 1) * input_grid.cell[0]), round((column + 1) * input_grid.cell[1])
    changed = x.clone()
    changed[:, :, top:bottom, left:right] = 1 - changed[:, :, top:bottom, left:right]
    with torch.no_grad(), attach(layout_of_model.modules(model), capture_call):
        model(x)
        model(changed)
    first_call, second_call = calls
    if isinstance(first_call, FusedCall):
        change = (second_call.key - first_call.key).abs().sum(dim=-1)
        if change.shape[:-1] != first_call.query.shape[:-2]:  # heads that share their keys
            change = change.mean(dim=1, keepdim=True)
    else:
        change = (second_call.scores - first_call.scores).abs().amin(dim=-2)
    layout = layout_of_model.layouts[first_site.site.name]
    folded = layout.fold(change[..., None], first_call.shape[:-2])[..., 0]
    placed = first_site.keys_at.to_grid(folded).sum(dim=1)
    grid = attention_record.grid
    weight = grid.drop_prefix(placed)[0]
    weight = (weight - weight.quantile(0.9)).clamp(min=0)
    if not weight.any():
        return None
    centre = (weight[:, None] * grid.centers()).sum(dim=0) / weight.sum()
    block_centre = torch.tensor([(left + right - 1) / 2, (top + bottom - 1) / 2])
    return float(((centre - block_centre).abs() / torch.tensor(input_grid.cell[::-1])).max())


def _model_state(model: Any) -> list[Any]:
    modules = [
        (
            name,
            module.training,
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            len(module._backward_hooks),
            getattr(module, "fused_attn", None),
            sorted(vars(module)),
        )
        for name, module in model.named_modules()
    ]
    return modules + [
        (name, parameter.requires_grad, parameter.grad is None)
        for name, parameter in model.named_parameters()
    ]


Attempt = Callable[[str, str], dict[str, Any]]  # name and module to a row


def _child(run: Attempt, name: str, module: str, pipe: Any) -> None:
    import warnings

    warnings.simplefilter("ignore")
    try:
        pipe.send(run(name, module))
    except Exception as error:  # noqa: BLE001 — recorded in the row
        frame = traceback.extract_tb(error.__traceback__)[-1]
        message = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        pipe.send({"status": "wrong", "reason": f"{message} ({Path(frame.filename).name})"})


def attempt_in_process(
    name: str, module: str, limit: float, run: Attempt = attempt
) -> dict[str, Any]:
    """Run one attempt in a process of its own, with limits on memory and time."""
    receive, send = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(
        target=_child, args=(run, name, module, send)
    )
    process.start()
    start, reason = time.monotonic(), None
    while process.is_alive() and not receive.poll(0.2):
        if _resident(process.pid) > limit * 2**30:
            reason = f"does not fit {limit:g} GB"
        elif time.monotonic() - start > TIME_LIMIT:
            reason = f"takes longer than {TIME_LIMIT} s"
        if reason:
            process.kill()
            break
    row = receive.recv() if receive.poll(0.2) else None
    process.join()
    if row is None:
        row = {"status": "not tried", "reason": reason or f"ended with status {process.exitcode}"}
    return row


def _resident(pid: int | None) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
    except (OSError, IndexError):
        return 0


def main() -> None:
    """Run the architectures that have no result yet, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="only names that match this regular expression")
    parser.add_argument("--again", help="repeat names that match this regular expression")
    parser.add_argument("--limit-gb", type=float, default=8.0)
    options = parser.parse_args()

    import timm
    import torch

    previous = json.loads(RESULT.read_text()) if RESULT.exists() else {"models": {}}
    architectures = names()
    rows = {name: row for name, row in previous["models"].items() if name in architectures}
    for number, (name, module) in enumerate(architectures.items(), 1):
        again = options.again is not None and re.search(options.again, name)
        if not re.search(options.only, name) or (name in rows and not again):
            continue
        start = time.monotonic()
        rows[name] = {"family": module, **attempt_in_process(name, module, options.limit_gb)}
        print(
            f"{number}/{len(architectures)} {name}: {rows[name]['status']} "
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
        partial = RESULT.with_suffix(".part")
        partial.write_text(json.dumps(result, indent=0) + "\n", encoding="utf-8")
        partial.replace(RESULT)
    counts = Counter(row["status"] for row in rows.values())
    print(f"{len(rows)} of {len(architectures)}: {dict(counts)}")
    sys.exit(bool(counts["wrong"]))


if __name__ == "__main__":
    main()
