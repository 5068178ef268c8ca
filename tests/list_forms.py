"""One list of images in every form in which lists are written.

Plain functions of a seed, for tests and for long runs. Every form gives the same paths and labels.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

NAMES = ("tench, Tinca tinca", "tiger cat", "dog", "Löwe", "bird's nest")
ODD_NAMES = ("plain.png", "two words.png", "a,b.png", "semi;colon.png", "Löwe.png", "x.y.z.png",
             "(1).png", "quote's.png", "3.png", "label.png")  # fmt: skip
SIMPLE_NAMES = tuple(f"p{number}.png" for number in range(8))

Rows = Sequence[tuple[str, int | None]]
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-32")
LINE_ENDS = ("\n", "\r\n", "\r")


def separated(separator: str, by_name: bool = False) -> Callable[[Rows], str]:
    def write(rows: Rows) -> str:
        lines = []
        for path, label in rows:
            word = "" if label is None else NAMES[label] if by_name else str(label)
            lines.append(f"{path}{separator}{word}" if word else path)
        return "\n".join(lines) + "\n"

    return write


def table(
    delimiter: str, header: Sequence[str] = (), order: str = "pl", quote: bool = False
) -> Callable[[Rows], str]:
    """A table: `order` has p (path), l (label), n (row number), x (something else), a column."""

    def write(rows: Rows) -> str:
        stream = io.StringIO()
        quoting = csv.QUOTE_ALL if quote else csv.QUOTE_MINIMAL
        writer = csv.writer(stream, delimiter=delimiter, lineterminator="\n", quoting=quoting)
        if header:
            writer.writerow(header)
        for number, (path, label) in enumerate(rows):
            cells = {"p": path, "l": "" if label is None else label, "n": number, "x": "train"}
            writer.writerow([cells[column] for column in order])
        return stream.getvalue()

    return write


def quoted(rows: Rows) -> str:
    return "".join(f'"{path}" {"" if label is None else label}\n' for path, label in rows)


def as_floats(rows: Rows) -> str:
    """As pandas writes a column of classes with empty cells."""
    lines = [f"{path},{'' if label is None else float(label)}" for path, label in rows]
    return "path,label\n" + "\n".join(lines) + "\n"


def with_comments(rows: Rows) -> str:
    return "# images\n\n" + separated("\t")(rows).replace("\n", "\n\n# next\n", 1)


def with_backslashes(rows: Rows) -> str:
    return separated("\t")([(path.replace("/", "\\"), label) for path, label in rows])


# name -> writer. Forms of `ODD` are exact for any path, those of `SIMPLE` for plain ones.
ODD: dict[str, Callable[[Rows], str]] = {
    "tabs": separated("\t"),
    "tabs, names": separated("\t", by_name=True),
    "spaces": separated(" "),
    "several spaces": separated("    "),
    "spaces, names": separated(" ", by_name=True),
    "commas in quotes": table(",", quote=True),
    "semicolons in quotes": table(";", quote=True),
    "commas, header": table(",", ("path", "label")),
    "semicolons, header": table(";", ("filename", "class_id")),
    "tabs, header": table("\t", ("image", "target")),
    "header of four": table(",", ("", "image_path", "split", "label"), "npxl"),
    "header, class first": table(",", ("label", "path"), "lp"),
    "header in German": table(";", ("Bild", "Klasse")),
    "quoted, spaces": quoted,
    "comments": with_comments,
}
SIMPLE: dict[str, Callable[[Rows], str]] = {
    "commas": separated(","),
    "comma and space": separated(", "),
    "commas, names": separated(",", by_name=True),
    "semicolons": separated(";"),
    "backslashes": with_backslashes,
    "floats": as_floats,
    "class first": table(",", (), "lp"),
}
FORMS = ODD | SIMPLE


def pictures(folder: Path, names: Sequence[str]) -> None:
    """Small pictures in ``in/``."""
    (folder / "in").mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", (20, 20), (number, 0, 0)).save(folder / "in" / name)


def random_rows(rng: random.Random, names: Sequence[str]) -> list[tuple[str, int | None]]:
    """Rows in any order, some twice, some without a class; the first two have one."""
    sampled = [f"in/{name}" for name in rng.choices(names, k=rng.randrange(3, 12))]
    labels = [
        rng.randrange(5) if n < 2 or rng.random() < 0.8 else None for n in range(len(sampled))
    ]
    return list(zip(sampled, labels, strict=True))


def write_form(
    name: str, file: Path, rows: Rows, encoding: str = "utf-8", line_end: str = "\n"
) -> Path:
    """Write the rows in the form of that name."""
    text = FORMS[name](rows).replace("\n", line_end)
    file.write_bytes(text.encode(encoding))
    return file


def random_list(
    seed: int, folder: Path
) -> tuple[str, Path, tuple[str, ...], tuple[int | None, ...]]:
    """Write a list that the seed draws: its form, file, and the paths and labels that it means."""
    rng = random.Random(seed)
    form = rng.choice(list(FORMS))
    names = ODD_NAMES if form in ODD else SIMPLE_NAMES
    if not (folder / "in" / names[0]).exists():
        pictures(folder, names)
    rows = random_rows(rng, names)
    if form == "class first":
        rows = [(path, 0 if label is None else label) for path, label in rows]
    absolute = rng.random() < 0.2 and form != "backslashes"
    if absolute:
        rows = [(os.fspath(folder / path), label) for path, label in rows]
    file = folder / f"list-{seed}.{rng.choice(('txt', 'csv', 'tsv', 'lst'))}"
    write_form(form, file, rows, rng.choice(ENCODINGS), rng.choice(LINE_ENDS))
    return form, file, tuple(path for path, _ in rows), tuple(label for _, label in rows)


# name -> writer of class names
CLASS_FILES: dict[str, Callable[[Sequence[str]], str]] = {
    "lines": lambda names: "\n".join(names),
    "blank lines": lambda names: "\n\n" + "\n\n".join(f"  {name} " for name in names) + "\n\n",
    "number and space": lambda names: "\n".join(f"{n} {name}" for n, name in enumerate(names)),
    "number and colon": lambda names: "\n".join(f"{n}: {name}" for n, name in enumerate(names)),
    "number and tab": lambda names: "\n".join(f"{n}\t{name}" for n, name in enumerate(names)),
    "number and comma": lambda names: "\n".join(f"{n},{name}" for n, name in enumerate(names)),
    "from one": lambda names: "\n".join(f"{n}. {name}" for n, name in enumerate(names, 1)),
    "backwards": lambda names: "\n".join(
        f"{n} {name}" for n, name in reversed(list(enumerate(names)))
    ),
    "name and comma": lambda names: "\n".join(f"{name},{n}" for n, name in enumerate(names)),
    "name and space": lambda names: "\n".join(f"{name} {n}" for n, name in enumerate(names)),
    "header": lambda names: "index,name\n" + "\n".join(
        f'{n},"{name}"' for n, name in enumerate(names)
    ),
    "quotes": lambda names: "\n".join(f'"{name}"' for name in names),
    "WordNet": lambda names: "\n".join(f"n{n:08} {name}" for n, name in enumerate(names)),
    "JSON list": json.dumps,
    "JSON by number": lambda names: json.dumps({str(n): name for n, name in enumerate(names)}),
    "ImageNet's index": lambda names: json.dumps(
        {str(n): [f"n{n:08}", name] for n, name in enumerate(names)}, indent=1
    ),
    "class_to_idx": lambda names: json.dumps({name: n for n, name in enumerate(names)}),
    "id2label": lambda names: json.dumps({"id2label": dict(enumerate(names))}),
    "Python": lambda names: (
        "{" + ",\n ".join(f"{n}: {name!r}" for n, name in enumerate(names)) + "}"
    ),
}  # fmt: skip


def write_classes(name: str, file: Path, names: Sequence[str], encoding: str = "utf-8") -> Path:
    """Write class names in the form of that name."""
    file.write_bytes(CLASS_FILES[name](names).encode(encoding))
    return file
