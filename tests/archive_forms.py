"""One set of labelled pictures in archives of every form.

Plain functions of a seed, for tests and for long runs.
"""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

NAMES = ("tench, Tinca tinca", "tiger cat", "dog")

Members = list[tuple[str, bytes]]


def png(number: int, side: int = 20) -> bytes:
    """A picture of which the colour says the number."""
    stream = io.BytesIO()
    Image.new("RGB", (side, side), (number % 256, number // 256, 7)).save(stream, "PNG")
    return stream.getvalue()


def write_archive(file: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(file, "w") as written:
        for name, content in members:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            written.addfile(about, io.BytesIO(content))
    return file


def labelled(
    stems: Sequence[str], labels: Sequence[int], ending: str,
    write: Callable[[int], bytes] = lambda label: str(label).encode(),
) -> Members:  # fmt: skip
    members: Members = []
    for number, (stem, label) in enumerate(zip(stems, labels, strict=True)):
        members += [(f"{stem}.png", png(number)), (f"{stem}.{ending}", write(label))]
    return members


def named(label: int) -> bytes:
    return f" {NAMES[label]}\r\n".encode("utf-8-sig")


def in_json(label: int) -> bytes:
    return json.dumps({"caption": "a picture", "label": label}).encode()


STEMS: dict[str, Callable[[int], str]] = {
    "plain": lambda n: f"{n:04}",
    "folders": lambda n: f"v1.0/{n % 3}/{n:04}",
    "dots": lambda n: f"img.v2.{n:04}",
    "dots of names": lambda n: f"{'cat' if n % 2 else 'dog'}.{n}",
    "spaces": lambda n: f"my picture {n}",
}
LABELS: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "numbers": ("cls", lambda label: f"{label}\n".encode()),
    "marked": ("cls", lambda label: str(label).encode("utf-8-sig")),
    "names": ("cls", named),
    "cls.txt": ("cls.txt", lambda label: str(label).encode()),
    "label": ("label", lambda label: NAMES[label].upper().encode()),
    "json": ("json", in_json),
    "txt": ("txt", lambda label: str(label).encode()),
}


@dataclass(frozen=True)
class Case:
    """An archive, and what it means: each picture's number and label, in this order."""

    form: str
    file: Path
    names: tuple[str, ...]
    labels: tuple[int | None, ...]


def debris(stems: Sequence[str]) -> Members:
    """Members that macOS adds."""
    extra: Members = [(".DS_Store", b"x"), ("__MACOSX/._0.png", b"Mac OS X")]
    for stem in stems:
        folder, slash, base = stem.rpartition("/")
        extra.append((f"{folder}{slash}._{base}.png", b"Mac OS X        "))
    return extra


def random_archive(seed: int, folder: Path) -> Case:
    """Write an archive that the seed draws: names, labels, other members, their order."""
    rng = random.Random(seed)
    stem_form, label_form = rng.choice(list(STEMS)), rng.choice(list(LABELS))
    count = rng.randrange(2, 12)
    stems = [STEMS[stem_form](number) for number in range(count)]
    labels = [rng.randrange(3) for _ in stems]
    ending, write = LABELS[label_form]
    members = labelled(stems, labels, ending, write)
    form = f"{stem_form}, {label_form}"
    if rng.random() < 0.3:
        form += ", macOS"
        for extra in debris(stems):
            members.insert(rng.randrange(len(members) + 1), extra)
    if rng.random() < 0.3 and not stem_form.startswith("dots"):
        form += ", masks"
        word = rng.choice(("seg", "mask", "depth"))
        members += [(f"{stem}.{word}.png", png(999)) for stem in stems]
    if rng.random() < 0.3:
        rng.shuffle(members)
    order = [
        name for name, _ in members
        if name.endswith(".png") and name.removesuffix(".png") in set(stems)
    ]  # fmt: skip
    by_name = dict(zip(stems, labels, strict=True))
    file = write_archive(folder / f"a-{seed}.tar", members)
    return Case(
        form, file, tuple(f"{file.name}/{name}" for name in order),
        tuple(by_name[name.removesuffix(".png")] for name in order),
    )  # fmt: skip
