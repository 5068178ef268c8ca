"""Fuzzing area: hostile archives, lists and folders as the input of an audit."""

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

from .fuzzing import NAMES, Attempt, Generator, mutate, pick
from .fuzzing_patches import random_pixels

LABELS = (b"0", b" 7\n", b"", b"cat", b"-1", b"9" * 60, b"9" * 5000, "²".encode(), b"\xff", b"1.5")
RANGES = ("{0..3}.tar", "{3..0}.tar", "{0..999999}{0..999999}.tar", "{²..3}.tar",
          "{0..99999999999999999999}.tar")  # fmt: skip
KINDS = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE,
         tarfile.GNUTYPE_SPARSE, tarfile.CONTTYPE, b"Z")  # fmt: skip


def random_picture(rng: Generator) -> bytes:
    """Return the bytes of a small PNG."""
    stream = io.BytesIO()
    Image.fromarray(random_pixels(rng, 1, 20, 24)[0]).save(stream, "PNG")
    return stream.getvalue()


def random_name(rng: Generator) -> str:
    """Return a random file name with a random suffix."""
    ending = pick(rng, (".png", ".png", ".jpg", ".cls", "", ".tar", ".PNG", ".a.png", ".png\n"))
    return pick(rng, NAMES)[:255] + ending


def random_archive(rng: Generator) -> bytes:
    """Return an archive with odd names, links and labels, possibly damaged or forged."""
    stream, image_bytes = io.BytesIO(), random_picture(rng)
    form = pick(rng, (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT))
    mode = "w:gz" if rng.random() < 0.05 else "w"
    with tarfile.open(fileobj=stream, mode=mode, format=form, errors="surrogateescape") as archive:
        for number in range(int(rng.integers(0, 5))):
            member_name = f"{number:04}.png" if rng.random() < 0.6 else random_name(rng)
            member = tarfile.TarInfo(member_name)
            content = pick(rng, LABELS) if member_name.endswith(".cls") else image_bytes
            member.size = len(content)
            if rng.random() < 0.15:
                member.type, member.linkname = pick(rng, KINDS), pick(rng, NAMES)
            if rng.random() < 0.1 and form == tarfile.PAX_FORMAT:
                key = pick(rng, ("size", "path", "GNU.sparse.size", "GNU.sparse.map", "mtime", "x"))
                member.pax_headers = {key: pick(rng, ("-5", "9" * 30, "x", "1,2,3", "a/b", "1e5"))}
            try:
                archive.addfile(member, io.BytesIO(content))
            except (ValueError, UnicodeError):
                continue  # the format does not allow this name
            if rng.random() < 0.3:
                label = tarfile.TarInfo(f"{number:04}.cls")
                content = pick(rng, LABELS)
                label.size = len(content)
                archive.addfile(label, io.BytesIO(content))
    data = stream.getvalue()
    if rng.random() < 0.6:
        data = mutate(data, rng)
    return forge_header(data, rng) if rng.random() < 0.3 else data


def forge_header(data: bytes, rng: Generator) -> bytes:
    """Return the archive with a false header field and a matching checksum."""
    forged = bytearray(data)
    starts = [
        start
        for start in range(0, len(forged) - 511, 512)
        if forged[start + 257 : start + 262] == b"ustar"
    ]
    if not starts:
        return data
    header = pick(rng, starts)
    field, width = pick(rng, ((124, 12), (100, 8), (136, 12), (156, 1), (0, 100), (345, 155)))
    values = (b"\x80" + b"\0" * (width - 2) + b"\x07", b"\xff" * width, b"7" * width, b"\0" * width,
              b"-1".ljust(width, b"\0"), rng.bytes(width), b"L" * width, b"x" * width)  # fmt: skip
    forged[header + field : header + field + width] = pick(rng, values)[:width].ljust(width, b"\0")
    forged[header + 148 : header + 156] = b" " * 8
    forged[header + 148 : header + 156] = b"%06o\0 " % sum(forged[header : header + 512])
    return bytes(forged)


def archives(work: Path) -> Attempt:
    """Return the attempt on archives, lists and folders, and on the images in them."""

    def attempt(rng: Generator) -> None:
        kind = rng.random()
        path: Any = work / "a.tar"
        if kind < 0.7:
            path.write_bytes(random_archive(rng))
        elif kind < 0.85:
            path = work / "list.txt"
            classes = ("", "\t0", "\t²", "\tcat", "\t-1", "\t" + "9" * 5000)
            lines = [pick(rng, NAMES) + pick(rng, classes) for _ in range(int(rng.integers(0, 4)))]
            text = "\n".join(lines).encode("utf-8", "surrogateescape")
            path.write_bytes(text if rng.random() < 0.7 else mutate(text or b"x", rng))
        elif kind < 0.95:
            path = work / "folder"
            make_tree(rng, path)
        else:
            path = str(work / pick(rng, RANGES))
        try:
            data_source = open_source(path, pick(rng, ((), ("cat", "dog"), NAMES)), 2)
            assert len(data_source.names) == len(data_source.data)
            for shown_text in (
                *data_source.names,
                *(value for row in data_source.data.broken for value in row),
            ):
                shown_text.encode("utf-8")  # a table must be able to store it
                assert shown_text.isprintable()
            for source in data_source.data.sources[:2]:
                read(source)
        finally:
            shutil.rmtree(work / "folder", ignore_errors=True)

    return attempt


def make_tree(rng: Generator, root: Path) -> None:
    """Make a folder with links that are dangling, circular, or lead out of the folder."""
    root.mkdir()
    inner = root / "b"
    inner.mkdir()
    for place in (root, inner):
        for _ in range(int(rng.integers(0, 3))):
            file = place / random_name(rng).replace("/", "_").replace("\0", "_")[:60]
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
                    file.write_bytes(random_picture(rng))
            except (OSError, ValueError):
                continue
