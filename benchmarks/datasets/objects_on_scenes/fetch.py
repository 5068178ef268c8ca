"""Fetch the cut-outs and the scenes: ``python -m benchmarks.datasets.objects_on_scenes.fetch``.

They are files of Debian packages, which apt downloads and which are read without installation and
without root. The digest of every package is checked, only the files of `catalog` are kept, and an
interrupted call resumes. The cut-outs are GPL-2 works: they are stored in the user's cache and are
not part of this repository.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from semattn.zoo.weights import cache_dir

from .catalog import files

PACKAGES: dict[str, str] = {
    "tuxpaint-stamps-default=2022.06.04-1": (
        "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34"
    ),
    "lomiri-wallpapers-16.04=20.04.0-2": (
        "a99ff6a3bfe451e4cc0682ecb3cc82e71740626d59e4845ae34a0a0e45421eab"
    ),
    "lomiri-wallpapers-20.04=20.04.0-2": (
        "d44e89b8473aafe64a5b678f014862dc31335aaaf18665c544d985d854f1a709"
    ),
    "mate-backgrounds=1.26.0-1": "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04",
    "plasma-workspace-wallpapers=4:5.27.5-2": (
        "32cd18b71c8c938a18b3b351f217c02ac590e323caa3cf322fbb875ce8892f8b"
    ),
}


class FetchError(Exception):
    """Raised when the data cannot be fetched; the message is one line that says what to do."""


def default_root() -> Path:
    """Return the default folder of the data."""
    return cache_dir() / "objects-on-scenes"


def fetch(
    root: Path,
    debs: Path | None = None,
    packages: Mapping[str, str] = PACKAGES,
    names: Sequence[str] | None = None,
) -> None:
    """Fetch every file of the catalogue into `root`.

    Parameters
    ----------
    root : folder for the files, created if missing
    debs : folder with downloaded packages; default: apt downloads them
    packages : "NAME=VERSION" to sha256
    names : files of these packages below `usr/share`; None for those of the catalogue

    Raises
    ------
    FetchError
        apt is missing or does not know a package; a package has another digest.
    """
    names = files() if names is None else names
    catalogue = _catalogue_digest(names)
    for package, digest in packages.items():
        done = root / f".{package.partition('=')[0]}.done"
        if done.exists() and done.read_text() == catalogue:
            continue
        root.mkdir(parents=True, exist_ok=True)
        deb = _find(debs or root, package) or _download(package, root)
        actual = sha256(deb)
        if actual != digest:
            raise FetchError(
                f"{package}: expected sha256 {digest[:12]}…, got {actual[:12]}… — delete {deb} and "
                "run this again"
            )
        _unpack(deb, root, names)
        done.write_text(catalogue)
        if deb.parent == root:
            deb.unlink()
    missing = [name for name in names if not (root / name).exists()]
    if missing:
        raise FetchError(f"packages: expected {missing[0]}, got no such file — report this")


def _catalogue_digest(names: Sequence[str]) -> str:
    """Return the digest of the catalogue, for which the unpacked files are valid."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def _find(folder: Path, package: str) -> Path | None:
    name, _, version = package.partition("=")
    path = folder / f"{name}_{version.replace(':', '%3a')}_all.deb"
    return path if path.exists() else None


def _download(package: str, folder: Path) -> Path:
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise FetchError(
            "fetch: expected apt-get and dpkg-deb, got none — run on Debian 12 (a "
            "container is enough), or give --debs FOLDER"
        )
    command = ["apt-get", "download", package]
    environment = {**os.environ, "LC_ALL": "C"}
    process = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env=environment
    )
    deb = _find(folder, package)
    if process.returncode == 0 and deb:
        return deb
    error_lines = [line for line in process.stderr.splitlines() if line.startswith("E:")] or [
        "no error message"
    ]
    raise FetchError(
        f"{package}: expected apt-get to fetch it, got {error_lines[0]!r} — run apt-get update as "
        "root on Debian 12 (other releases carry other versions), or give --debs FOLDER"
    )


def sha256(path: Path) -> str:
    """Return the digest of a file."""
    total = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            total.update(block)
    return total.hexdigest()


def _unpack(deb: Path, root: Path, names: Sequence[str]) -> None:
    """Extract the named files and the package's copyright."""
    name_of_member = {f"./usr/share/{name}": name for name in names}
    name = deb.name.partition("_")[0]
    name_of_member[f"./usr/share/doc/{name}/copyright"] = f"copyright/{name}"
    unpacking = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE)
    with unpacking, tarfile.open(fileobj=unpacking.stdout, mode="r|") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.name in name_of_member else None
            if content is None:
                continue
            target = root / name_of_member[member.name]
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(target.name + ".part")
            partial.write_bytes(content.read())
            partial.replace(target)


def main() -> int:
    """Fetch the data and print its folder."""
    parser = argparse.ArgumentParser(description="Fetch the cut-outs and scenes of the benchmarks.")
    parser.add_argument("--root", type=Path, default=default_root(), help="folder for the files")
    parser.add_argument("--debs", type=Path, help="folder with downloaded packages")
    arguments = parser.parse_args()
    try:
        fetch(arguments.root, arguments.debs)
    except FetchError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{len(files())} files in {arguments.root}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
