"""Install the wheel as users do, and run doctor and the demo in each fresh environment.

    make check-installs [PYTHON=python3.12] [PIP_ARGS=…] [UV_ARGS=…]
    python -m benchmarks.tools.check_installs [--only uv] [--python 3.12]

For pip and for uv, without extras and with [all]: make an environment, install the wheel of dist/,
run `semattn doctor`, explain examples/flower.jpg with an empty folder for weights, and run `semattn
doctor` again. If doctor finds a broken OpenCV, its own command is run first. The pictures of all
environments must be equal. Rows are written to results/installs.json, one for each installer, extra
and version of Python; the exit status is 1 if any check fails. Takes minutes and several GB, which
are removed again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import RESULTS_DIR, ROOT

RESULT = RESULTS_DIR / "installs.json"
INSTALLERS, EXTRAS = ("pip", "uv"), ("", "[all]")
SHOWN = ("torch", "timm", "numpy", "Pillow")  # packages with a column in the table
COLUMNS = [
    {"key": "installer", "title": "installer"},
    {"key": "requirement", "title": "installed"},
    {"key": "python", "title": "Python"},
    *({"key": name, "title": name} for name in SHOWN),
    {"key": "opencv", "title": "OpenCV"},
    {"key": "weights", "title": "weights by"},
    {"key": "doctor", "title": "`semattn doctor`"},
    {"key": "picture", "title": "picture of the demo"},
    {"key": "minutes", "title": "minutes", "format": ".1f"},
]
# Prints the pixels' digest of each picture, and the largest difference of the map from the first.
COMPARE = """
import hashlib, json, sys
from pathlib import Path
import numpy as np
from PIL import Image
out, first = map(Path, sys.argv[1:])
digests = {}
for name in ("overlay.png", "figure.png"):
    pixels = np.asarray(Image.open(out / name).convert("RGB"))
    digests[name] = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
heat_map, reference = np.load(out / "map.npy"), np.load(first)
print(json.dumps({"pictures": digests, "difference": float(abs(heat_map - reference).max())}))
"""


@dataclass
class Environment:
    """A fresh environment in a folder: its interpreter and how packages are installed."""

    installer: str
    folder: Path
    log: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def bin(self) -> Path:
        """The folder of its programs."""
        return self.folder / ("Scripts" if sys.platform == "win32" else "bin")

    def run(self, *command: object, statuses: tuple[int, ...] = (0,)) -> str:
        """Run a command and return its standard output; its errors go to the log."""
        words = [str(word) for word in command]
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"$ {shlex.join(words)}\n")
            log.flush()
            answer = subprocess.run(
                words, stdout=subprocess.PIPE, stderr=log, text=True, cwd=self.folder.parent,
                env=self.variables, check=False,
            )  # fmt: skip
            log.write(answer.stdout)
        if answer.returncode not in statuses:
            raise RuntimeError(f"status {answer.returncode} of {shlex.join(words)}: see {self.log}")
        return answer.stdout

    def create(self, python: str) -> None:
        """Make the environment."""
        if self.installer == "uv":
            self.run("uv", "venv", "--quiet", "--python", python, self.folder)
        else:
            self.run(python, "-m", "venv", self.folder)

    def install(self, requirement: str) -> None:
        """Install a requirement, with the words of PIP_ARGS or UV_ARGS."""
        words = shlex.split(os.environ.get(f"{self.installer.upper()}_ARGS", ""))
        if self.installer == "uv":
            self.run(
                "uv", "pip", "install", "--quiet", "--python", self.bin / "python", *words,
                requirement,
            )  # fmt: skip
        else:
            self.run(
                self.bin / "python", "-m", "pip", "install", "--quiet",
                "--disable-pip-version-check", *words, requirement,
            )  # fmt: skip

    def doctor(self) -> dict[str, dict[str, Any]]:
        """Return the checks of `semattn doctor`, by name."""
        text = self.run(self.bin / "semattn", "doctor", "--json", statuses=(0, 1))
        return {check["name"]: check for check in json.loads(text)["checks"]}


def check_install(
    installer: str, extra: str, *, python: str, wheel: Path, work: Path, first: dict[str, Any]
) -> dict[str, Any]:
    """Return the row of one environment; `first` keeps the picture and the map of the first."""
    began = time.monotonic()
    folder = work / f"{installer}{extra}".strip("[]").replace("[", "-")
    folder.mkdir(parents=True)
    log = work / f"{folder.name}.log"
    variables = {
        name: value for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")
    } | {"SEMATTN_CACHE": str(folder / "weights"), "OMP_NUM_THREADS": "1"}  # fmt: skip
    environment = Environment(installer, folder / "venv", log, variables)
    environment.create(python)
    environment.install(f"semattn{extra} @ {wheel.resolve().as_uri()}")
    checks, repair = environment.doctor(), ""
    if commands := checks["opencv"].get("commands"):
        repair = "after its repair command"
        environment.run("sh", "-c", commands[installer])
    out = folder / "demo"
    environment.run(environment.bin / "semattn", "explain", ROOT / "examples" / "flower.jpg",
                    "--no-report", "--out", out)  # fmt: skip
    checks = environment.doctor()
    if not first:
        first["map"] = shutil.copy(out / "map.npy", work / "map.npy")
    python_path = environment.bin / "python"
    shown = json.loads(environment.run(python_path, "-c", COMPARE, out, first["map"]))
    picture = hashlib.sha256("".join(shown["pictures"].values()).encode()).hexdigest()[:8]
    is_equal = first.setdefault("picture", picture) == picture
    has_pip = not subprocess.run(
        [python_path, "-m", "pip", "--version"], capture_output=True, check=False
    ).returncode
    broken = [name for name, check in checks.items() if check["status"] == "broken"]
    row = {
        "installer": installer,
        "requirement": f"semattn{extra}",
        "python": checks["python"]["detail"].partition(",")[0],
        **{name: checks[name]["detail"] for name in SHOWN},
        "opencv": checks["opencv"]["detail"],
        "weights": "pip" if has_pip else "uv pip",
        "doctor": f"broken: {', '.join(broken)}" if broken else f"all works {repair}".strip(),
        "picture": picture if is_equal else f"{picture}, map differs by {shown['difference']:.2g}",
        "minutes": (time.monotonic() - began) / 60,
        "passes": not broken and (is_equal or shown["difference"] < 1e-4),
    }
    shutil.rmtree(folder)
    return row


def write_rows(rows: list[dict[str, Any]], path: Path = RESULT) -> None:
    """Write the rows in place of those with the same installer, requirement and Python."""
    keys = ("installer", "requirement", "python")
    replaced = {tuple(row[key] for key in keys) for row in rows}
    kept = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    kept = [row for row in kept if tuple(row[key] for key in keys) not in replaced]
    rows = sorted([*kept, *rows], key=_order)
    caption = (
        "Each row is a fresh environment outside the repository, with an empty folder for the "
        "weights. The picture is given by a digest of the pixels of overlay and figure: equal "
        "digests are equal pictures. Rows with another digest were made before the texts of the "
        "figure changed. Minutes include downloads, and depend on the network and on what else "
        "runs. Made by `make check-installs`."
    )
    content = {"columns": COLUMNS, "rows": rows, "caption": caption}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _order(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return the place of a row in the table: by Python, installer and extra."""
    return [int(part) for part in row["python"].split(".")], row["installer"], row["requirement"]


def main(argv: list[str] | None = None) -> int:
    """Check all environments and write the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", default=sys.executable, help="interpreter of the environments")
    parser.add_argument("--only", choices=INSTALLERS, help="default: pip, and uv if it is there")
    parser.add_argument("--extras", nargs="*", default=EXTRAS, help='default: "" and [all]')
    parser.add_argument("--work", type=Path, help="folder for environments and logs")
    options = parser.parse_args(argv)
    wheels = list((ROOT / "dist").glob("semattn-*.whl"))
    if len(wheels) != 1:
        print(f"error: dist: expected one wheel, got {len(wheels)} — run make dist")
        return 2
    installers = [options.only] if options.only else list(INSTALLERS)
    if "uv" in installers and not shutil.which("uv"):
        print("uv is not installed: its environments are left out")
        installers.remove("uv")
    work = (options.work or Path(tempfile.mkdtemp(prefix="semattn-installs-"))).resolve()
    rows: list[dict[str, Any]] = []
    first: dict[str, Any] = {}
    for installer in installers:
        for extra in options.extras:
            row = check_install(
                installer, extra, python=options.python, wheel=wheels[0], work=work, first=first
            )
            print(json.dumps(row), flush=True)
            rows.append(row)
    write_rows(rows)
    if options.work is None:
        shutil.rmtree(work)
    return 0 if all(row["passes"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
