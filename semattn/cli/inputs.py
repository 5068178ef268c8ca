"""IMAGE arguments of the commands: files, patterns, folders and standard input."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shlex
import sys
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from ..errors import ImageError, plain
from ..utils.remote_path import RemotePath, StoredFile, to_path
from ..utils.result_folder import read_marker, source_of

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import nn

    from ..images import Images

STDIN = "-"
MAX_STDIN = 2**30  # bytes of a picture on standard input
MAX_NAME = 120  # bytes of the name of a folder
MAX_SOURCE = 500  # characters; a longer list of arguments is stored as a digest
DATASET = "hf-dataset:"
DOWNLOADS = ("http://", "https://", "ftp://", "file://")  # use curl
ADDRESS = re.compile("[A-Za-z][A-Za-z0-9+.-]+://")
PARTICIPLES = {
    "explain": "explained", "compare": "compared", "prompt": "prompted", "analyze": "analysed",
}  # fmt: skip
MAX_REASONS = 3  # listed in an error
RESERVED = {"", "index.html"}  # names that no folder of an image has


@dataclass(frozen=True)
class ImageInput:
    """One picture that a command reads: a path, a stored file, or the bytes of standard input.

    Stored files are remote files, members of archives and rows of data sets.
    """

    source: Path | bytes | StoredFile

    @property
    def path(self) -> Path | None:
        """The local file; None for standard input and for a stored file."""
        return self.source if isinstance(self.source, Path) else None

    @property
    def is_stdin(self) -> bool:
        """Return whether the picture comes from standard input."""
        return isinstance(self.source, bytes)

    @property
    def label(self) -> str:
        """The name that messages and pages show: the path, or "-"."""
        if self.path is not None:
            return plain(self.path.as_posix())
        return STDIN if self.is_stdin else plain(str(self.source))

    @property
    def stem(self) -> str:
        """The file name without its ending, or "stdin"."""
        if self.path is not None:
            return self.path.stem
        return "stdin" if self.is_stdin else PurePosixPath(str(self.source)).stem

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes of standard input; "" for a file."""
        return hashlib.sha256(self.source).hexdigest() if isinstance(self.source, bytes) else ""

    @property
    def identity(self) -> str:
        """Text that identifies the picture: the absolute path, or "-" with the digest."""
        if self.path is not None:
            return source_of((self.path,))
        return f"{STDIN} {self.sha256}" if self.is_stdin else self.label

    def decode(self) -> Photograph:
        """Read the picture, once for all its uses, with a note on assumptions."""
        from ..images.picture import read_with_note

        picture, note = read_with_note(self.source)
        if note:
            warnings.warn(note, stacklevel=2)
        name = "standard input" if self.is_stdin else PurePosixPath(self.label).name
        return Photograph(picture, name if self.path is None else self.path.name, note)


class Photograph(NamedTuple):
    """Decoded picture of a command, with its name and a note on assumptions, or ""."""

    picture: Image
    name: str
    note: str

    def for_model(self, network: nn.Module) -> Images:
        """Return the picture as an explainer takes it."""
        from ..images import Preprocessing, prepare

        images = prepare(self.picture, Preprocessing.of(network), names=[self.name])
        return replace(images, notes=tuple(filter(None, (self.note, *images.notes))))


@dataclass(frozen=True)
class ImageInputs:
    """Pictures named by the arguments of a command, without duplicates.

    Parameters
    ----------
    arguments : as the user typed them
    images : the pictures, in the order of the arguments; those of a folder or pattern by name
    repeated : number of files that were named again
    folder : the folder, where it is the only argument
    command : name of the command
    """

    arguments: tuple[str, ...]
    images: tuple[ImageInput, ...]
    repeated: int = 0
    folder: Path | None = None
    command: str = "explain"

    @property
    def is_single(self) -> bool:
        """Return whether the only argument is a picture, not a folder with one picture."""
        return len(self.images) == 1 and self.folder is None

    @property
    def paths(self) -> tuple[Path, ...]:
        """The folder argument, or the files without standard input."""
        if self.folder is not None:
            return (self.folder,)
        return tuple(image.path for image in self.images if image.path is not None)

    @property
    def stdin_sha256(self) -> str:
        """SHA-256 of the bytes of standard input; "" where it is not among the pictures."""
        return next((image.sha256 for image in self.images if image.is_stdin), "")

    @property
    def base(self) -> Path:
        """The folder argument, or the deepest folder that holds all files; absolute."""
        if self.folder is not None:
            return self.folder.resolve()
        parents = [_absolute(image.path).parent for image in self.images if image.path is not None]
        try:
            return Path(os.path.commonpath(parents))
        except ValueError:  # no local file, or several drives
            return Path.cwd()

    @property
    def title(self) -> str:
        """The name of the folder that holds all files, for people."""
        return self.base.name or "images"

    @property
    def source(self) -> str:
        """Text that identifies the pictures: the absolute arguments, or a digest of many."""
        if self.is_single:
            return self.images[0].identity
        streams = [image.identity for image in self.images if image.is_stdin]
        paths = [source_identity(text) for text in self.arguments if text != STDIN]
        text = ",".join(sorted({*paths, *streams}))
        if len(text) <= MAX_SOURCE:
            return text
        digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
        return f"{len(self.images)} images, SHA-256 of their paths {digest}"

    def check(self) -> None:
        """Read pictures until one can be read.

        Raises
        ------
        ImageError
            If no picture can be read; for several pictures, with the first reasons.
        """
        from ..images import read

        errors: list[tuple[str, str]] = []
        for image in self.images:
            try:
                read(image.source)
            except ImageError as error:
                if self.is_single:
                    raise
                errors.append((image.label, str(error)))
            else:
                return
        raise self.nothing_left(errors)

    def nothing_left(self, errors: Sequence[tuple[str, str]]) -> ImageError:
        """Return the error for several pictures of which none can be used.

        Parameters
        ----------
        errors : name and reason of each
        """
        reasons = "; ".join(f"{label}: {reason}" for label, reason in errors[:MAX_REASONS])
        more = f"; and {len(errors) - MAX_REASONS} more" if len(errors) > MAX_REASONS else ""
        return ImageError(
            f"images: expected one that can be {PARTICIPLES.get(self.command, 'used')}, "
            f"got {len(errors)} that cannot: {reasons}{more}"
        )

    def folder_names(self) -> list[str]:
        """Return a name for the folder of each picture; no two differ by case alone.

        It is the path from `base` without the ending, with "-" between its parts; a short hash
        follows where two pictures would have the same name.

        Examples
        --------
        >>> files = tuple(ImageInput(Path(name)) for name in ("/d/cat/1.jpg", "/d/dog/1.jpg"))
        >>> ImageInputs((), files).folder_names()
        ['cat-1', 'dog-1']
        """
        base = self.base
        names = [_folder_name(image, base) for image in self.images]
        keys = [unicodedata.normalize("NFC", name).casefold() for name in names]
        counts = Counter(keys)
        return [
            name
            if counts[key] == 1 and key not in RESERVED and len(os.fsencode(name)) <= MAX_NAME
            else f"{name[: MAX_NAME // 4] or 'image'}-{_short_hash(image.identity)}"
            for name, key, image in zip(names, keys, self.images, strict=True)
        ]


def read_images(arguments: Sequence[str], command: str) -> ImageInputs:
    """Return the pictures that IMAGE arguments name; only standard input is read.

    Parameters
    ----------
    arguments : paths, patterns that the shell did not expand, folders, "-" for standard input
    command : name of the command, for advice in errors

    Raises
    ------
    ImageError
        For a URL, a pattern without matches, a folder without files, or empty standard input.
    """
    sources: dict[str, Path | bytes | StoredFile] = {}
    count = 0
    for argument in arguments:
        for source in _sources(argument, command, is_repeated=STDIN in sources):
            count += 1
            sources.setdefault(_key(source), source)
    only = Path(arguments[0]) if len(arguments) == 1 and _is_folder(arguments[0]) else None
    images = tuple(map(ImageInput, sources.values()))
    return ImageInputs(tuple(arguments), images, count - len(images), only, command)


def _sources(argument: str, command: str, is_repeated: bool) -> Iterator[Path | bytes | StoredFile]:
    from ..data import list_images, open_source

    if argument == STDIN:
        yield b"" if is_repeated else _standard_input(command)
    elif argument.startswith(DATASET) or argument.partition("#")[0].endswith(".tar"):
        yield from open_source(argument, None, 0).data.sources
    elif ADDRESS.match(argument) and not argument.startswith(DOWNLOADS):
        remote = RemotePath(argument)
        yield from list_images(remote) if remote.is_dir() else [remote]
    elif ADDRESS.match(argument):
        raise ImageError(
            f"image: expected a file, got the URL {argument} (semattn downloads nothing) — "
            f"use curl -fL {shlex.quote(argument)} | semattn {command} -"
        )
    elif _is_folder(argument):
        yield from list_images(argument)
    elif glob.has_magic(argument) and not os.path.lexists(argument):
        yield from _matches(argument)
    else:
        yield Path(argument)


def _matches(pattern: str) -> Iterator[Path]:
    """Yield the files that match a pattern, and those of folders that match, without results."""
    from ..data import list_images

    markers: dict[Path, dict[str, object]] = {}
    is_empty = True
    for text in sorted(glob.glob(pattern, recursive=True)):  # noqa: PTH207 — may be absolute
        path = Path(text)
        if _is_result(path, markers):
            continue
        if not path.is_dir():
            is_empty = False
            yield path
        elif "**" not in pattern:  # a pattern with ** matches the files of the folder, too
            try:
                files = list_images(path)
            except ImageError:  # an empty folder, or one of results
                continue
            is_empty = False
            yield from files
    if is_empty:
        raise ImageError(
            f"image: expected files that match the pattern {pattern}, got none — check the folder "
            "and the ending"
        )


def _is_result(path: Path, markers: dict[Path, dict[str, object]]) -> bool:
    """Return whether semattn wrote a file or folder, or a folder above it in the path."""
    for child in (path, *path.parents):
        folder = child.parent
        if folder not in markers:
            markers[folder] = dict(read_marker(folder))
        mark = "" if child == path and not path.is_dir() else "/"
        if f"{child.name}{mark}" in markers[folder]:
            return True
    return False


def _standard_input(command: str) -> bytes:
    advice = f"semattn {command} - < photo.jpg"
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None or sys.stdin.isatty():
        raise ImageError(
            f"image: expected a picture on standard input, got a terminal — use {advice}"
        )
    content: bytes = stream.read(MAX_STDIN + 1)
    if not content:
        raise ImageError(f"image: expected a picture on standard input, got nothing — use {advice}")
    if len(content) > MAX_STDIN:
        raise ImageError(
            f"image: expected at most {MAX_STDIN:,} bytes on standard input, got more — "
            "shrink the picture first"
        )
    return content


def _key(source: Path | bytes | StoredFile) -> str:
    if isinstance(source, bytes):
        return STDIN
    if not isinstance(source, Path):
        return str(source)
    try:
        return os.path.realpath(source)
    except (OSError, ValueError):
        return os.fspath(source)


def _is_folder(text: str) -> bool:
    try:
        return Path(text).is_dir()
    except (OSError, ValueError):  # too long a name, a closed folder
        return False


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 — a link keeps its own name


def _folder_name(image: ImageInput, base: Path) -> str:
    if image.path is None:
        return "stdin" if image.is_stdin else _remote_name(image.label)
    path = _absolute(image.path).with_suffix("")
    parts = path.relative_to(base).parts if path.is_relative_to(base) else path.parts[-1:]
    return "-".join(parts).strip(". ")


def _remote_name(label: str) -> str:
    path = PurePosixPath(label.partition("://")[2] or label)
    return "-".join(path.with_suffix("").parts[-2:]).strip(". ") if path.name else "image"


def source_identity(text: str) -> str:
    """Return the text that identifies a source: the address, or the absolute path."""
    return plain(text) if is_remote(text) else source_of((Path(text),))


def local_inputs(text: str) -> tuple[Path, ...]:
    """Return the path of a local source, as a tuple of one; () for a remote one."""
    return () if is_remote(text) else (Path(text),)


def check_folder(text: str) -> None:
    """Raise ImageError for a local folder without files, and for a path that does not exist."""
    from ..data import list_images

    is_plain = not is_remote(text) and "#" not in text and "{" not in text
    if is_plain and not Path(text).is_file():
        list_images(text)


def is_remote(text: str) -> bool:
    """Return whether a source is an address or the name of a data set, and not a local path."""
    return isinstance(to_path(text), RemotePath) or text.startswith(DATASET)


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]
