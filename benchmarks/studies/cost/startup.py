"""Start-up time: ``semattn explain`` relative to the import of torch, timm and captum.

    python -m benchmarks.studies.cost.startup [--rounds 5] [--image FILE] [-- EXPLAIN OPTIONS]

Runs `python -c "import torch, timm, captum"` and `semattn explain IMAGE` in turn, each in a process
of its own, after one warm-up round. Prints the wall-clock and CPU seconds (user and system) of
both, the ratio of the medians, and the CPU seconds of the stages of one run. On a busy machine, use
the CPU seconds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import ROOT

IMPORTS = [sys.executable, "-c", "import torch, timm, captum"]
LIMIT = 1.6
IMAGE = ROOT / "examples" / "flower.jpg"
PIECES = """
import sys, time
began = [time.process_time()]
def lap(name):
    now = time.process_time()
    print(f"  {name:32}{now - began[0]:6.2f}", flush=True)
    began[0] = now
import torch, timm, captum
lap("import torch, timm, captum")
from semattn.cli import explain, image_writers
from semattn.cli.main import main
from semattn.cli.model_options import ModelOptions
from semattn.explain.base import Explainer
lap("import of semattn")
def timed(owner, name, before, after):
    function = getattr(owner, name)
    def run(*arguments, **options):
        lap(before)
        result = function(*arguments, **options)
        lap(after)
        return result
    setattr(owner, name, run)
timed(ModelOptions, "load", "arguments, picture", "model")
timed(explain, "enlarged_view", "explanation", "picture in more pixels")
timed(explain, "pages", "-", "page")
timed(image_writers, "write_explanation", "-", "pictures and files")
sys.stdout, shown = open("/dev/null", "w"), sys.stdout
print = lambda *words, **options: shown.write(" ".join(map(str, words)) + "\\n")
main(sys.argv[1:])
"""


def measure_command(command: list[str]) -> tuple[float, float]:
    """Return the wall seconds and the CPU seconds of a process."""
    # Modules are compiled once, as in normal use.
    environment = {name: value for name, value in os.environ.items()
                   if name != "PYTHONDONTWRITEBYTECODE"}  # fmt: skip
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return seconds, usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure both commands in turn and print the times."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--image", type=Path, default=IMAGE)
    parser.add_argument("more", nargs="*", help="more options of semattn explain")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["explain", str(options.image), "--out", f"{folder}/out", *options.more]
        commands = {
            "import torch, timm, captum": IMPORTS,
            "semattn explain": [sys.executable, "-m", "semattn", *arguments],
        }
        measurements_of: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for turn in range(options.rounds + 1):
            for name, command in commands.items():
                measurement = measure_command(command)
                if turn:
                    measurements_of[name].append(measurement)
        medians = {}
        for name, measurement in measurements_of.items():
            wall, cpu = (statistics.median(part) for part in zip(*measurement, strict=True))
            medians[name] = wall, cpu
            print(f"{name:28}{wall:6.2f} s wall{cpu:6.2f} s CPU")
        import_times, semattn_times = medians.values()
        print(f"{'ratio of the medians':28}{semattn_times[0] / import_times[0]:6.2f}      "
              f"{semattn_times[1] / import_times[1]:6.2f}      (at most {LIMIT})")  # fmt: skip
        print("pieces of one run, CPU seconds:", flush=True)
        subprocess.run([sys.executable, "-c", PIECES, *arguments], check=True)


if __name__ == "__main__":
    main()
