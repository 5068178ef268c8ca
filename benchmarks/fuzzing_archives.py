"""The area of hostile archives, lists and folders that an audit may be given."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

from PIL import Image

from semattn.data import open_source
from semattn.images import read

from .fuzzing import NAMES, Chance, Try, mutated, pick
from .fuzzing_patches import smooth

LABELS = (b"0", b" 7\n", b"", b"cat", b"-1", b"9" * 60, b"9" * 5000, "²".encode(), b"\xff", b"1.5")
RANGES = ("{0..3}.tar", "{3..0}.tar", "{0..999999}{0..999999}.tar", "{²..3}.tar",
          "{0..99999999999999999999}.tar")  # fmt: skip
KINDS = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE,
         tarfile.GNUTYPE_SPARSE, tarfile.CONTTYPE, b"Z")  # fmt: skip


def picture(rng: Chance) -> bytes:
    """A small picture, as a file."""
    stream = io.BytesIO()
    Image.fromarray(smooth(rng, 1, 20, 24)[0]).save(stream, "PNG")
    return stream.getvalue()


def name(rng: Chance) -> str:
    """What a file may be called, and its ending."""
    ending = pick(rng, (".png", ".png", ".jpg", ".cls", "", ".tar", ".PNG", ".a.png", ".png\n"))
    return pick(rng, NAMES)[:255] + ending


def tar(rng: Chance) -> bytes:
    """An archive with names, links and labels of all sorts, then damaged, checksums made right."""
    stream, shown = io.BytesIO(), picture(rng)
    form = pick(rng, (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT))
    mode = "w:gz" if rng.random() < 0.05 else "w"
    with tarfile.open(fileobj=stream, mode=mode, format=form, errors="surrogateescape") as made:
        for number in range(int(rng.integers(0, 5))):
            called = f"{number:04}.png" if rng.random() < 0.6 else name(rng)
            about = tarfile.TarInfo(called)
            content = pick(rng, LABELS) if called.endswith(".cls") else shown
            about.size = len(content)
            if rng.random() < 0.15:
                about.type, about.linkname = pick(rng, KINDS), pick(rng, NAMES)
            if rng.random() < 0.1 and form == tarfile.PAX_FORMAT:
                key = pick(rng, ("size", "path", "GNU.sparse.size", "GNU.sparse.map", "mtime", "x"))
                about.pax_headers = {key: pick(rng, ("-5", "9" * 30, "x", "1,2,3", "a/b", "1e5"))}
            try:
                made.addfile(about, io.BytesIO(content))
            except (ValueError, UnicodeError):
                continue  # a name that this format lacks
            if rng.random() < 0.3:
                label = tarfile.TarInfo(f"{number:04}.cls")
                content = pick(rng, LABELS)
                label.size = len(content)
                made.addfile(label, io.BytesIO(content))
    data = stream.getvalue()
    if rng.random() < 0.6:
        data = mutated(data, rng)
    return forged(data, rng) if rng.random() < 0.3 else data


def forged(data: bytes, rng: Chance) -> bytes:
    """One header of an archive with a field that lies, and a checksum that agrees."""
    made = bytearray(data)
    starts = [at for at in range(0, len(made) - 511, 512) if made[at + 257 : at + 262] == b"ustar"]
    if not starts:
        return data
    at = pick(rng, starts)
    field, width = pick(rng, ((124, 12), (100, 8), (136, 12), (156, 1), (0, 100), (345, 155)))
    values = (b"\x80" + b"\0" * (width - 2) + b"\x07", b"\xff" * width, b"7" * width, b"\0" * width,
              b"-1".ljust(width, b"\0"), rng.bytes(width), b"L" * width, b"x" * width)  # fmt: skip
    made[at + field : at + field + width] = pick(rng, values)[:width].ljust(width, b"\0")
    made[at + 148 : at + 156] = b" " * 8
    made[at + 148 : at + 156] = b"%06o\0 " % sum(made[at : at + 512])
    return bytes(made)


def archives(work: Path) -> Try:
    """Archives, lists and folders that an audit is given, and the pictures that it finds there."""

    def attempt(rng: Chance) -> None:
        kind = rng.random()
        given: Any = work / "a.tar"
        if kind < 0.7:
            given.write_bytes(tar(rng))
        elif kind < 0.85:
            given = work / "list.txt"
            classes = ("", "\t0", "\t²", "\tcat", "\t-1", "\t" + "9" * 5000)
            lines = [pick(rng, NAMES) + pick(rng, classes) for _ in range(int(rng.integers(0, 4)))]
            text = "\n".join(lines).encode("utf-8", "surrogateescape")
            given.write_bytes(text if rng.random() < 0.7 else mutated(text or b"x", rng))
        elif kind < 0.95:
            given = work / "folder"
            tree(rng, given)
        else:
            given = str(work / pick(rng, RANGES))
        try:
            found = open_source(given, pick(rng, ((), ("cat", "dog"), NAMES)), 2)
            assert len(found.names) == len(found.data)
            for said in (*found.names, *(one for row in found.broken for one in row)):
                said.encode("utf-8")  # or no table can hold it
                assert said.isprintable()
            for source in found.data.sources[:2]:
                read(source)
        finally:
            shutil.rmtree(work / "folder", ignore_errors=True)

    return attempt


def tree(rng: Chance, root: Path) -> None:
    """A folder with links that lead nowhere, in circles and out of it."""
    root.mkdir()
    inner = root / "b"
    inner.mkdir()
    for place in (root, inner):
        for _ in range(int(rng.integers(0, 3))):
            file = place / name(rng).replace("/", "_").replace("\0", "_")[:60]
            try:
                kind = rng.integers(6)
                if kind == 0:
                    file.symlink_to(file)
                elif kind == 1:
                    file.symlink_to(root)
                elif kind == 2:
                    file.symlink_to(pick(rng, NAMES).replace("\0", "_")[:60] or "x")
                elif kind == 3:
                    os.mkfifo(file)
                else:
                    file.write_bytes(picture(rng))
            except (OSError, ValueError):
                continue
