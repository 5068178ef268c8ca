"""Run the scripts in examples/ and store their output for docs/gallery.md.

    python docs/gallery/make.py [NAME …]

The output is in the folder of this file: NAME.txt, and images NAME.jpg, NAME-2.jpg and so on, at
most 1,200 pixels wide and under 150 kB. The script that explains a photograph downloads the
packaged weights once.
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
MAX_WIDTH, MAX_BYTES = 1200, 150_000


def to_small_jpeg(path: Path) -> bytes:
    """Return the image as JPEG: at most `MAX_WIDTH` wide, the best quality within `MAX_BYTES`."""
    image = Image.open(path).convert("RGB")
    if image.width > MAX_WIDTH:
        height = round(image.height * MAX_WIDTH / image.width)
        image = image.resize((MAX_WIDTH, height), Image.Resampling.LANCZOS)
    for quality in (90, 80, 70, 60, 50, 40):
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=quality, optimize=True)
        if stream.tell() < MAX_BYTES:
            return stream.getvalue()
    raise ValueError(f"{path.name}: expected less than {MAX_BYTES} bytes, got {stream.tell()}")


def run_example(script: Path) -> None:
    """Run a script in an empty folder and store its text and images."""
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
        for old_image in (*HERE.glob(f"{script.stem}.jpg"), *HERE.glob(f"{script.stem}-*.jpg")):
            old_image.unlink()
        lists = re.findall(r"^pictures?: (.+)$", run.stdout, flags=re.MULTILINE)
        names = [name for names in lists for name in names.split(", ") if name.endswith(".png")]
        for number, name in enumerate(names, 1):
            file_name = f"{script.stem}.jpg" if number == 1 else f"{script.stem}-{number}.jpg"
            (HERE / file_name).write_bytes(to_small_jpeg(Path(folder) / name))
    (HERE / f"{script.stem}.txt").write_text(run.stdout, encoding="utf-8")
    print(f"{script.name}: {len(run.stdout.splitlines())} lines, {len(names)} pictures")


if __name__ == "__main__":
    for path in sorted((ROOT / "examples").glob("*.py")):
        if not sys.argv[1:] or path.stem in sys.argv[1:]:
            run_example(path)
