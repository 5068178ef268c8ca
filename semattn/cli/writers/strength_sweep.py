"""The results of `semattn prompt`: one figure, the maps, and how the classes move."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...utils.result_folder import FolderLike, ResultFolder
from ...viz import Picture, steps
from .explanation import summary
from .folder import Also, write_json, write_others

if TYPE_CHECKING:
    from ...prompting.strength_sweep import Steps

STEPS_FILES = {"figure": "prompt.png", "result": "prompt.json", "maps": "maps.npz"}


def write_steps(
    made: Steps,
    folder: FolderLike,
    *,
    top: int = 5,
    about: dict[str, Any] | None = None,
    backdrop: Picture | None = None,
    also: Also = None,
) -> dict[str, Path]:
    """Write figure, result and maps of one prompted image into `folder`: the path of each.

    ``maps.npz`` holds `strengths` (S,), `maps` (S, h, w) and `bias` (h, w), nats at strength 1.

    Parameters
    ----------
    made : what `semattn.prompting.strength_sweep.steps` returned
    folder : a path, made with its parents where it does not exist; or a `ResultFolder`, which also
        names the command and the inputs
    top : how many classes of each prediction are kept
    about : more about the prompt, ready for JSON
    backdrop : as for `semattn.viz.overlay`
    also : more files, by name, and what writes each

    Raises
    ------
    OutputError
        For a folder that cannot be written to, or that holds such a file of others; nothing is
        left behind.
    """
    place = ResultFolder.of(folder)
    with place.staged() as stage:
        steps(made, backdrop=backdrop).savefig(stage / STEPS_FILES["figure"])
        np.savez_compressed(
            stage / STEPS_FILES["maps"],
            strengths=np.array(made.strengths),
            maps=made.maps.numpy().astype(np.float32),
            bias=made.grid.fold(made.bias).numpy().astype(np.float32),
        )
        files = STEPS_FILES | write_others(stage, also)
        result = summary_of(made, top, about) | place.inputs_entry() | {"files": files}
        write_json(stage / STEPS_FILES["result"], result)
    return {name: place.path / file for name, file in files.items()}


def summary_of(made: Steps, top: int = 5, about: dict[str, Any] | None = None) -> dict[str, Any]:
    """What was explained, what led, and the probabilities at every strength, ready for JSON."""
    first = made.explanation
    binary = first.output.is_binary(first.outputs)
    probabilities = made.probabilities
    rows = made.logits.reshape(len(made.logits), -1)

    def named(number: int) -> dict[str, Any]:
        return {"class": number, "name": first.answer_label(number)}

    def shares(number: int) -> dict[str, Any]:
        if first.output.in_percent:
            return {"probabilities": [round(p, 6) for p in probabilities[:, number].tolist()]}
        return {"values": [round(one, 6) for one in rows[:, 0 if binary else number].tolist()]}

    return {
        **summary(first, top=top),
        "prompt": {"led": made.prompt, **(about or {})},
        "strengths": list(made.strengths),
        "classes": [named(number) | shares(number) for number in made.leading(top)],
        "flips": [
            {"strength": strength, "before": named(before), "after": named(after)}
            for strength, before, after in made.flips()
        ],
    }
