"""Run the scripts in examples/ and keep what they print and draw, for docs/gallery.md.

    python docs/gallery/make.py [NAME …]

Beside this file: NAME.txt, and NAME.jpg or NAME-2.jpg and so on, no wider than a page and under
150 kB. The script that explains a photograph fetches the packaged weights, once.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WIDTH, BYTES = 1200, 150_000


def small(file: Path) -> bytes:
    """The picture as JPEG: at most `WIDTH` wide, as good as fits into `BYTES`."""
    picture = Image.open(file).convert("RGB")
    if picture.width > WIDTH:
        height = round(picture.height * WIDTH / picture.width)
        picture = picture.resize((WIDTH, height), Image.Resampling.LANCZOS)
    for quality in (90, 80, 70, 60, 50, 40):
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=quality, optimize=True)
        if stream.tell() < BYTES:
            return stream.getvalue()
    raise ValueError(f"{file.name}: expected it to fit into {BYTES} bytes, got {stream.tell()}")


def made(script: Path) -> None:
    """Run one script in an empty folder, and keep what comes of it."""
    with tempfile.TemporaryDirectory() as folder:
        run = subprocess.run(
            [sys.executable, script],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode:
            raise SystemExit(f"{script.name} failed:\n{run.stderr}")
        for old in (*HERE.glob(f"{script.stem}.jpg"), *HERE.glob(f"{script.stem}-*.jpg")):
            old.unlink()
        named = re.findall(r"^pictures?: (.+)$", run.stdout, flags=re.MULTILINE)
        names = [one for line in named for one in line.split(", ") if one.endswith(".png")]
        for number, name in enumerate(names, 1):
            kept = f"{script.stem}.jpg" if number == 1 else f"{script.stem}-{number}.jpg"
            (HERE / kept).write_bytes(small(Path(folder) / name))
    (HERE / f"{script.stem}.txt").write_text(run.stdout, encoding="utf-8")
    print(f"{script.name}: {len(run.stdout.splitlines())} lines, {len(names)} pictures")


if __name__ == "__main__":
    for each in sorted((ROOT / "examples").glob("*.py")):
        if not sys.argv[1:] or each.stem in sys.argv[1:]:
            made(each)
