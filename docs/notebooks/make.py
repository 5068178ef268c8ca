"""Run the notebooks of this folder and store their outputs.

    python docs/notebooks/make.py [NAME …]

Pictures are stored as JPEG where this is smaller, at most 1,200 pixels wide. The weights of the
embedded model are downloaded once.
"""

from __future__ import annotations

import base64
import io
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).parent
MAX_WIDTH, QUALITY = 1200, 80
PNG = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=]+)")


def to_jpeg(png: str) -> str | None:
    """Return a picture, base64 PNG, as base64 JPEG; None if that is not smaller."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    if picture.width > MAX_WIDTH:
        height = round(picture.height * MAX_WIDTH / picture.width)
        picture = picture.resize((MAX_WIDTH, height), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=QUALITY, optimize=True)
    jpeg = base64.b64encode(stream.getvalue()).decode("ascii")
    return jpeg if len(jpeg) < len(png) else None


def shrink_uri(match: re.Match[str]) -> str:
    """Return a picture in HTML as JPEG if that is smaller."""
    jpeg = to_jpeg(match[1])
    return f"data:image/jpeg;base64,{jpeg}" if jpeg else match[0]


def shrink_outputs(cell: nbformat.NotebookNode) -> None:
    """Store the pictures of a cell as JPEG, and leave out the text form of what has another one."""
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if "text/html" in data:
            data["text/html"] = PNG.sub(shrink_uri, data["text/html"])
        if jpeg := to_jpeg(data["image/png"]) if "image/png" in data else None:
            del data["image/png"]
            data["image/jpeg"] = jpeg
        if {"text/html", "image/png", "image/jpeg"} & set(data):
            data.pop("text/plain", None)


def run_notebook(path: Path) -> None:
    """Run a notebook and write it with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    began = time.monotonic()
    NotebookClient(notebook, timeout=1200, record_timing=False).execute(cwd=str(path.parent))
    for cell in notebook.cells:
        shrink_outputs(cell)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, path)
    print(f"{path.name}: {time.monotonic() - began:.0f} s, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    for path in sorted(HERE.glob("*.ipynb")):
        if not sys.argv[1:] or path.stem in sys.argv[1:]:
            run_notebook(path)
