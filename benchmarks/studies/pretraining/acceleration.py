"""Effect of guided masks on pre-training speed.

    python -m benchmarks.studies.pretraining.acceleration

Every arm pre-trains the same masked autoencoder on the same images. For one seed, initial weights,
order and crops are equal in all arms; only the masks (or the loss weights) differ. After an epoch,
k-NN and a linear probe evaluate the encoder on labelled images, and the loss is computed with one
fixed set of random masks. Seconds include keypoint detection and mask sampling, not the probes; on
a CPU they are CPU seconds, so that other processes do not count. Lower bounds: the untrained
encoder and raw pixels.

Each arm and seed has one file in ``--results``, written atomically after each epoch. An interrupted
run resumes from its last checkpoint in ``--work``, and several processes may share the folders
(``--part 0/2``). Seeds below 2 are development seeds, evaluated on the validation split; the others
use the test split. ``--folder`` takes a folder in ImageNet's layout. `pretraining_table` renders
the results.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import RESULTS_DIR
from semattn.masking import BlockwiseMasking, GuidedMasking, Masking, RandomMasking, Schedule
from semattn.pretraining import build_model, pretrain
from semattn.utils.atomic_files import write_text
from semattn.zoo import cache_dir

from . import pretraining_data
from .pretraining_data import Data
from .probes import probe_model, probe_pixels

BETA = 2.0
RATIO = 0.75
SEEDS = {"validation": (0, 1), "test": (2, 3, 4)}
EPOCHS = 5
PROBES = 20  # probed epochs of a run, at least

# A ViT of 4 layers and 96 channels at 64 pixels, which one core trains in minutes.
SMALL = {
    "hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 384,
    "decoder_hidden_size": 64, "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 256,
}  # fmt: skip
LEAST = {**SMALL, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
         "intermediate_size": 32, "decoder_hidden_size": 32, "decoder_num_hidden_layers": 1,
         "decoder_num_attention_heads": 2, "decoder_intermediate_size": 32}  # fmt: skip


MakeMasking = Callable[[float, int, int, float], Masking]  # mask ratio, seed, epochs, beta


@dataclass(frozen=True)
class Arm:
    """Masking policy, keypoint density and loss weight of one arm."""

    masking: MakeMasking
    density: str = "count"
    loss_weight: str = "none"
    control: bool = False


def _random(ratio: float, seed: int, epochs: int, beta: float) -> Masking:
    return RandomMasking(ratio, seed)


def _blocks(ratio: float, seed: int, epochs: int, beta: float) -> Masking:
    return BlockwiseMasking(ratio, seed)


def _hide_dense(ratio: float, seed: int, epochs: int, beta: float) -> Masking:
    return GuidedMasking(ratio, seed, beta)


def _hide_sparse(ratio: float, seed: int, epochs: int, beta: float) -> Masking:
    return GuidedMasking(ratio, seed, -beta)


def _scheduled(ratio: float, seed: int, epochs: int, beta: float) -> Masking:
    return GuidedMasking(ratio, seed, Schedule(-beta, beta, epochs))


ARMS: dict[str, Arm] = {
    "random": Arm(_random, control=True),
    "SIFT-rich": Arm(_hide_dense),
    "SIFT-poor": Arm(_hide_sparse),
    "SIFT-scheduled": Arm(_scheduled),
    "edges": Arm(_hide_dense, "sobel", control=True),
    "shifted SIFT": Arm(_hide_dense, "shifted", control=True),
    "other image's SIFT": Arm(_hide_dense, "other", control=True),
    "block-wise": Arm(_blocks, control=True),
    "KAMIM weight": Arm(_random, loss_weight="kamim"),
    "KAMIM weight, relative": Arm(_random, loss_weight="kamim-relative"),
}


@dataclass(frozen=True)
class Protocol:
    """Parameters shared by all arms.

    Parameters
    ----------
    model : a size of `semattn.pretraining.SIZES`, or a dict of the configuration
    learning_rate : for a batch size of 256
    scale : range of the part of an image that a crop shows
    """

    model: Any
    image_size: int
    patch_size: int
    epochs: int
    batch_size: int
    learning_rate: float = 8e-3
    scale: tuple[float, float] = (0.2, 1.0)
    beta: float = BETA
    precision: str = "float32"
    device: str = "auto"
    workers: int = 0
    reconstructions: int = 6

    def options(self) -> dict[str, Any]:
        """Return the arguments of `pretrain`."""
        names = ("model", "image_size", "patch_size", "epochs", "batch_size", "learning_rate",
                 "scale", "precision", "device", "workers", "reconstructions")  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def about(self, data: Data) -> dict[str, Any]:
        """Return the parameters that must be equal for all results of a table."""
        shared = {
            **self.options(),
            "scale": list(self.scale),
            "beta": self.beta,
            "mask_ratio": RATIO,
        }
        for name in ("device", "workers", "reconstructions"):  # which change no result
            del shared[name]
        return {**shared, **data.about}

    def due(self, done: int) -> bool:
        """Return whether this epoch is probed."""
        return done == self.epochs or done % max(1, self.epochs // PROBES) == 0


def file_of(results: Path, arm: str, seed: int) -> Path:
    """Return the path of the result of an arm and seed."""
    return results / f"{short(arm)}-{seed}.json"


def run(
    arm: str, seed: int, data: Data, protocol: Protocol, work: Path, results: Path
) -> dict[str, Any]:
    """Train one arm with one seed; the curve has one entry per epoch, from before training."""
    path = file_of(results, arm, seed)
    run_dir = work / "runs" / path.stem
    about = protocol.about(data)
    result = read(path, about) or {
        "arm": arm, "seed": seed, "about": about, "curve": [], "finished": False,
    }  # fmt: skip
    if result["finished"]:
        return result
    curve: dict[int, dict[str, Any]] = {entry["epoch"]: entry for entry in result["curve"]}
    spec = ARMS[arm]
    if 0 not in curve:
        untrained = build_model(
            protocol.model, image_size=protocol.image_size, patch_size=protocol.patch_size,
            mask_ratio=RATIO, seed=seed,
        )  # fmt: skip
        curve[0] = {"epoch": 0, "seconds": 0.0, **probe_model(untrained, data)}
    clock = clock_of(protocol)
    last_time = clock()

    def after(pretraining_run: Any, done: int, seconds: float) -> None:
        nonlocal last_time
        elapsed = clock() - last_time
        curve[0]["seconds"] = pretraining_run.keypoints_seconds
        curve[done] = {"epoch": done, "seconds": curve[done - 1]["seconds"] + elapsed}
        if protocol.due(done):
            curve[done] |= probe_model(pretraining_run.model, data)
        keep(path, {**result, "keypoints_seconds": pretraining_run.keypoints_seconds,
                    "curve": [curve[epoch] for epoch in sorted(curve)]})  # fmt: skip
        last_time = clock()

    finished = pretrain(
        data.pictures, run_dir, seed=seed, target="pixels",
        masking=spec.masking(RATIO, seed, protocol.epochs, protocol.beta),
        density=spec.density, loss_weight=spec.loss_weight, cache=work / "keypoints",
        after_epoch=after, **protocol.options(),
    )  # fmt: skip
    result |= {
        "keypoints_seconds": finished.keypoints_seconds, "finished": True,
        "curve": [curve[epoch] for epoch in sorted(curve) if epoch <= protocol.epochs],
    }  # fmt: skip
    keep(path, result)
    shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)
    return result


def clock_of(protocol: Protocol) -> Callable[[], float]:
    """Return the clock: CPU seconds for a single process on the CPU, else wall-clock seconds."""
    is_single_process = not protocol.workers and (
        protocol.device == "cpu" or not torch.cuda.is_available()
    )
    return time.process_time if is_single_process else time.perf_counter


def read(path: Path, about: dict[str, Any]) -> dict[str, Any] | None:
    """Read a partial result; a result of another protocol is refused."""
    if not path.exists():
        return None
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if result["about"] != json.loads(json.dumps(about)):
        raise SystemExit(f"{path}: expected a result of this protocol, got another one — "
                         "give another --results")  # fmt: skip
    return result


def keep(path: Path, result: dict[str, Any]) -> None:
    """Write a result atomically."""
    write_text(path, json.dumps(result))


def probe_raw_pixels(data: Data, protocol: Protocol, results: Path) -> dict[str, Any]:
    """Return the probes of raw pixels."""
    path, about = results / "raw_pixels.json", protocol.about(data)
    result = read(path, about)
    if result is None:
        result = {"arm": "raw pixels", "about": about, **probe_pixels(data)}
        keep(path, result)
    return result


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, default=cache_dir() / "bench-pretraining")
    parser.add_argument("--results", type=Path, help="default: results/pretraining or "
                        "results/pretraining_validation next to this script")  # fmt: skip
    parser.add_argument("--part", default="0/1", help="index and number of processes: 0/2, 1/2")
    parser.add_argument("--arms", default=",".join(short(arm) for arm in ARMS),
                        help=f"of {', '.join(map(short, ARMS))}")  # fmt: skip
    parser.add_argument("--seeds", help="comma-separated; default: those of the split")
    parser.add_argument(
        "--folder", type=Path, help="folder in ImageNet's layout, with train/ and val/"
    )
    parser.add_argument("--split", default="validation", choices=("validation", "test"))
    parser.add_argument("--pictures", type=int, default=10_000, help="number of training images")
    parser.add_argument(
        "--probe-train", type=int, default=3000, help="number of images that train the probes"
    )
    parser.add_argument(
        "--probe-test", type=int, default=2000, help="number of images that test the probes"
    )
    parser.add_argument(
        "--model", default=None, help="tiny, small or base; default: smaller than tiny"
    )
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--patch-size", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=8e-3, help="for a batch size of 256")
    parser.add_argument("--beta", type=float, default=BETA, help="of the guided arms; a negative "
                        "value reverses the preference")  # fmt: skip
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu"))
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a run of seconds on synthetic images")
    return parser.parse_args(argv)


def short(arm: str) -> str:
    """Return an arm's name as the command line spells it."""
    return arm.replace(", ", "-").replace("'s", "").replace(" ", "-")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the arms and seeds that have no result yet."""
    options = arguments(argv)
    results = options.results or RESULTS_DIR / (
        "pretraining" if options.split == "test" else "pretraining_validation"
    )
    for folder in (options.work, results):
        folder.mkdir(parents=True, exist_ok=True)
    names = {short(arm): arm for arm in ARMS}
    unknown = set(options.arms.split(",")) - names.keys()
    if unknown:
        raise SystemExit(f"--arms: expected names of {', '.join(names)}, got {', '.join(unknown)}")
    default_seeds = ",".join(map(str, SEEDS[options.split]))
    seeds = [int(seed) for seed in (options.seeds or default_seeds).split(",")]
    if options.smoke:
        data = pretraining_data.synthetic(32, pictures=24, train=30, test=15)
        protocol = Protocol(
            LEAST,
            32,
            8,
            epochs=2,
            batch_size=8,
            beta=options.beta,
            device="cpu",
            reconstructions=0,
        )
        seeds = seeds[:2]
    else:
        sizes = {"size": options.image_size, "train": options.probe_train,
                 "test": options.probe_test}  # fmt: skip
        if options.folder is not None:
            data = pretraining_data.image_folder(options.folder, **sizes)
        else:
            data = pretraining_data.cifar(pictures=options.pictures, split=options.split, **sizes)
        protocol = Protocol(
            options.model or SMALL, options.image_size, options.patch_size, options.epochs,
            options.batch_size, options.learning_rate, beta=options.beta,
            precision=options.precision,
            device=options.device, workers=options.workers,
        )  # fmt: skip
    part, parts = map(int, options.part.split("/"))
    if part == 0:
        probe_raw_pixels(data, protocol, results)
    pending = [(names[arm], seed) for seed in seeds for arm in options.arms.split(",")]
    for number, (arm, seed) in enumerate(pending):
        if number % parts != part:
            continue
        last = run(arm, seed, data, protocol, options.work, results)["curve"][-1]
        print(
            f"{arm}, seed {seed}: k-NN {last['knn']:.3f}, linear {last['linear']:.3f}, "
            f"fixed loss {last['fixed_loss']:.4f}, {last['seconds']:.0f} s", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
