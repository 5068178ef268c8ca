"""Result files of `semattn prompt`: figure, maps and JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...utils.result_folder import FolderLike, ResultFolder
from ...viz import Picture, strength_sweep
from .explanation import summary
from .folder import ExtraFiles, write_extra_files, write_json

if TYPE_CHECKING:
    from ...prompting.strength_sweep import StrengthSweep

STRENGTH_SWEEP_FILES = {"figure": "prompt.png", "result": "prompt.json", "maps": "maps.npz"}


def write_strength_sweep(
    prompted: StrengthSweep,
    folder: FolderLike,
    *,
    top: int = 5,
    settings: dict[str, Any] | None = None,
    backdrop: Picture | None = None,
    extra_files: ExtraFiles = None,
) -> dict[str, Path]:
    """Write figure, result and maps of one prompted image into `folder`; return the path of each.

    ``maps.npz`` contains `strengths` (S,), `maps` (S, h, w) and `bias` (h, w), nats at strength 1.

    Parameters
    ----------
    prompted : result of `semattn.prompting.strength_sweep.strength_sweep`
    folder : a path, created with its parents if missing; or a `ResultFolder`, which also names
        the command and the inputs
    top : number of classes to store
    settings : settings of the prompt, ready for JSON
    backdrop : see `semattn.viz.overlay`
    extra_files : writers of further files, by file name

    Raises
    ------
    OutputError
        For a folder that is not writable or contains a foreign file of such a name; nothing is
        written then.
    """
    results = ResultFolder.of(folder)
    with results.staged() as stage:
        strength_sweep(prompted, backdrop=backdrop).savefig(stage / STRENGTH_SWEEP_FILES["figure"])
        np.savez_compressed(
            stage / STRENGTH_SWEEP_FILES["maps"],
            strengths=np.array(prompted.strengths),
            maps=prompted.maps.numpy().astype(np.float32),
            bias=prompted.grid.fold(prompted.bias).numpy().astype(np.float32),
        )
        files = STRENGTH_SWEEP_FILES | write_extra_files(stage, extra_files)
        result = summary_of(prompted, top, settings) | results.inputs_entry() | {"files": files}
        write_json(stage / STRENGTH_SWEEP_FILES["result"], result)
    return {name: results.path / file for name, file in files.items()}


def summary_of(
    prompted: StrengthSweep, top: int = 5, settings: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return explanation, prompt and probabilities at every strength, ready for JSON."""
    first = prompted.explanation
    binary = first.output.is_binary(first.outputs)
    probabilities = prompted.probabilities
    rows = prompted.logits.reshape(len(prompted.logits), -1)

    def named(number: int) -> dict[str, Any]:
        return {"class": number, "name": first.answer_label(number)}

    def shares(number: int) -> dict[str, Any]:
        if first.output.in_percent:
            return {"probabilities": [round(p, 6) for p in probabilities[:, number].tolist()]}
        return {"values": [round(value, 6) for value in rows[:, 0 if binary else number].tolist()]}

    return {
        **summary(first, top=top),
        "prompt": {"direction": prompted.prompt, **(settings or {})},
        "strengths": list(prompted.strengths),
        "classes": [named(number) | shares(number) for number in prompted.leading(top)],
        "flips": [
            {"strength": strength, "before": named(before), "after": named(after)}
            for strength, before, after in prompted.flips()
        ],
    }
