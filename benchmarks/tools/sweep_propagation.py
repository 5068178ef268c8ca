"""Sweep of AttnLRP over the families of timm: does it work, is it refused, or is it wrong?

    python -m benchmarks.tools.sweep_propagation [--only REGEX] [--again REGEX] [--limit-gb 8]

One small model of each family in semattn/zoo/assets/models.json is built as in `sweep_timm`, in
float64 and in a process of its own. *Works* means, for the rules without gamma: the map on pixels
is finite and not zero; the map of a *twin*, which turns the image inside the model, is the map of
the turned image, turned back; and without biases and with constant attention, the sum of the
relevance is the score within 5 %. The sum is not checked if the model has gates whose value at 0 is
not 0, such as a sigmoid, or constants that remain; the row gives the reason. A refusal names the
module. Calls without a rule are listed in the row.

The result is written to benchmarks/results/propagation_sweep.json after every model: an interrupted
run resumes.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections import Counter
from typing import Any

from benchmarks import RESULTS_DIR
from semattn.utils.atomic_files import write_text

from .sweep_timm import RESULT as MODELS, attempt_in_process, explained_row

RESULT = RESULTS_DIR / "propagation_sweep.json"
TOLERANCE = 0.05  # of the score
TWIN_TOLERANCE = 1e-6  # of the maximum
# Words in names of small models, the smallest first.
SIZES = (
    "test", "atto", "femto", "pico", "nano", "xxxs", "xxs", "_xs", "tiny", "_t_", "_s0", "_b0",
    "pp_0", "mini", "_12", "_s_", "small", "_0",
)  # fmt: skip
CONSTANTS = re.compile(r"bias|pos_embed|position|token$|running_mean|beta$|rel_pos|query$|latent")


def small_models() -> dict[str, str]:
    """Return a small model that works for each family, by family."""
    models = json.loads(MODELS.read_text(encoding="utf-8"))["models"]

    def size(name: str) -> tuple[Any, ...]:
        height, width = models[name].get("input", (10**4, 10**4))
        ranks = [rank for rank, word in enumerate(SIZES) if word in f"{name}_"]
        return height * width, min(ranks, default=len(SIZES)), len(name), name

    families = sorted({row["family"] for row in models.values()})
    return {
        family: min(
            (name for name, row in models.items() if row["family"] == family),
            key=lambda name: (models[name]["status"] != "works", *size(name)),
        )
        for family in families
    }


def attempt(name: str, module: str) -> dict[str, Any]:
    """Build and explain one model in float64; return its row of the result."""
    return explained_row(name, module, _explained, images=1, prepare=_double)


def _double(model: Any) -> Any:
    return model.double().requires_grad_(False)


def _explained(model: Any, x: Any) -> dict[str, Any]:
    import torch

    from semattn import AttnLRP

    with torch.no_grad():
        logits = model(x)
    target = int(logits[0].abs().argmax())
    explainer = AttnLRP(gamma=0, conv_gamma=0)
    explanation = explainer.explain(model, x, target=target, map_only=True)
    heat_map = explanation.heat_map
    faults = []
    if not bool(heat_map.isfinite().all()) or not bool(heat_map.any()):
        faults.append("not finite, or zero")
    twin = _twin(model, x, target)
    if "wrong" in twin:
        faults.append(f"twin: {twin}")
    ratio, reason = _conservation(model, x)
    if not reason and not abs(ratio - 1) <= TOLERANCE:  # also for NaN
        faults.append(f"the sum of the relevance is {ratio:.3f} of the score")
    without_rule = [note for note in explanation.notes if note.startswith("No propagation rule")]
    return {
        "status": "wrong" if faults else "works",
        **({"reason": "; ".join(faults)} if faults else {}),
        "patches": [*explanation.grid.shape],
        "twin": twin,
        "conservation": round(ratio, 6) if ratio == ratio else None,
        **({"not_checked": reason} if reason else {}),
        **({"without_rule": without_rule[0]} if without_rule else {}),
    }


def _twin(model: Any, x: Any, target: int) -> str:
    """Compare with a model that turns the picture inside: "equal", "refused …" or "wrong …"."""
    import torch
    from torch import nn

    from semattn import AttnLRP
    from semattn.errors import SemattnError

    is_square = x.shape[-1] == x.shape[-2]

    def turn(images: Any) -> Any:
        return images.flip(-1).transpose(-1, -2) if is_square else images.flip(-1)

    def turn_back(images: Any) -> Any:
        return images.transpose(-1, -2).flip(-1) if is_square else images.flip(-1)

    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: torch.Tensor) -> Any:
            return self.model(turn(images))

    explainer = AttnLRP(gamma=0, conv_gamma=0)
    expected = turn_back(explainer.attribute(model, turn(x), target=target))
    try:
        value = explainer.attribute(Turned().eval(), x, target=target)
    except SemattnError as refusal:
        return f"refused: {refusal}"
    difference = float((value - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
    return "equal" if difference <= TWIN_TOLERANCE else f"wrong by {difference:.1e}"


def _conservation(model: Any, x: Any) -> tuple[float, str]:
    """Return the sum of the relevance divided by the score without biases, or why it is not 1."""
    import torch
    from torch.overrides import TorchFunctionMode

    from semattn import AttnLRP

    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if CONSTANTS.search(name) and tensor.is_floating_point():
                tensor.zero_()
        at_zero, logits = model(torch.zeros_like(x)), model(x)
    if not bool(logits.any()):
        return float("nan"), "the score is 0 without biases"
    offset = float(at_zero.abs().max() / logits.abs().max())
    gates = {"sigmoid", "sigmoid_", "hardsigmoid", "softplus", "exp"}
    called = set()

    class Gates(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            called.add(getattr(func, "__name__", ""))
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Gates():
        model(x)
    explainer = AttnLRP(preset="epsilon", epsilon=1e-12, attention="cp-lrp")
    explanation = explainer.explain(model, x, target=int(logits[0].abs().argmax()), map_only=True)
    assert explanation.conservation is not None
    ratio = float(explanation.conservation)
    if offset > 1e-6:
        return ratio, f"constants remain, {offset:.0e} of the score"
    if gates & called:
        return ratio, f"gates keep their part: {', '.join(sorted(gates & called))}"
    return ratio, ""


def main() -> None:
    """Run the families that have no result yet, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="only families that match this expression")
    parser.add_argument("--again", help="repeat families that match this regular expression")
    parser.add_argument("--limit-gb", type=float, default=8.0)
    options = parser.parse_args()

    import timm
    import torch

    models = small_models()
    previous = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    rows = {family: row for family, row in previous.get("families", {}).items() if family in models}
    for family, name in models.items():
        again = options.again is not None and re.search(options.again, family)
        if not re.search(options.only, family) or (family in rows and not again):
            continue
        start = time.monotonic()
        rows[family] = {
            "model": name, **attempt_in_process(name, family, options.limit_gb, attempt),
        }  # fmt: skip
        seconds = time.monotonic() - start
        print(f"{family} {name} ({seconds:.0f} s): {rows[family]}", flush=True)
        result = {
            "timm": timm.__version__, "torch": torch.__version__.split("+")[0],
            "all_families": len(models), "families": dict(sorted(rows.items())),
        }  # fmt: skip
        write_text(RESULT, json.dumps(result, indent=0) + "\n")
    counts = Counter(row["status"] for row in rows.values())
    print(f"{len(rows)} of {len(models)} families: {dict(counts)}")
    sys.exit(bool(counts["wrong"]))


if __name__ == "__main__":
    main()
