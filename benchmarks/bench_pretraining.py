"""Does guided masking learn faster? ``python -m benchmarks.bench_pretraining``.

Every arm pre-trains the same masked autoencoder on the same pictures: for a seed, weights, order
and crops are the same in all arms, and only masks (or the weights of the loss) differ. After each
epoch, or some of them, k-NN and a linear probe judge the encoder on labelled images, and the loss
is taken under one set of random masks. Seconds include finding keypoints and drawing masks, and not
the probes; they are the processor's where that trains, so that what else runs does not count.
Floors: the encoder before training, and the pixels themselves.

One file for each arm and seed in ``--results``, written whole after each epoch; a run that was
stopped goes on from its last checkpoint in ``--work``, and several processes may share the folders
(``--part 0/2``). Seeds below 2 are development, on the validation split; the test split is for the
others. ``--folder`` takes images as ImageNet's, on a GPU where there is one. `pretraining_table`
renders.
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

from semattn.masking import BlockwiseMasking, GuidedMasking, Masking, RandomMasking, Schedule
from semattn.pretraining import build_model, pretrain
from semattn.utils.atomic_files import write_text
from semattn.zoo import cache_dir

from . import pretraining_data
from .pretraining_data import Data
from .pretraining_probes import probed, raw

BETA = 2.0
RATIO = 0.75
SEEDS = {"validation": (0, 1), "test": (2, 3, 4)}
EPOCHS = 5
PROBES = 20  # probed epochs of a run, at least
RESULTS = Path(__file__).parent / "results"

# What one core trains in minutes: a ViT of 4 layers and 96 channels on 64 pixels.
SMALL = {
    "hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 384,
    "decoder_hidden_size": 64, "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 256,
}  # fmt: skip
LEAST = {**SMALL, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
         "intermediate_size": 32, "decoder_hidden_size": 32, "decoder_num_hidden_layers": 1,
         "decoder_num_attention_heads": 2, "decoder_intermediate_size": 32}  # fmt: skip


Make = Callable[[float, int, int, float], Masking]  # of mask ratio, seed, number of epochs, beta


@dataclass(frozen=True)
class Arm:
    """How masks are made, by what density, and how patches are weighed."""

    masking: Make
    density: str = "count"
    loss_weight: str = "none"
    control: bool = False


def _random(ratio: float, seed: int, epochs: int, beta: float) -> Masking:
    return RandomMasking(ratio, seed)


def _blocks(ratio: float, seed: int, epochs: int, beta: float) -> Masking:
    return BlockwiseMasking(ratio, seed)


def _rich(ratio: float, seed: int, epochs: int, beta: float) -> Masking:
    return GuidedMasking(ratio, seed, beta)


def _poor(ratio: float, seed: int, epochs: int, beta: float) -> Masking:
    return GuidedMasking(ratio, seed, -beta)


def _scheduled(ratio: float, seed: int, epochs: int, beta: float) -> Masking:
    return GuidedMasking(ratio, seed, Schedule(-beta, beta, epochs))


ARMS: dict[str, Arm] = {
    "random": Arm(_random, control=True),
    "SIFT-rich": Arm(_rich),
    "SIFT-poor": Arm(_poor),
    "SIFT-scheduled": Arm(_scheduled),
    "edges": Arm(_rich, "sobel", control=True),
    "shifted SIFT": Arm(_rich, "shifted", control=True),
    "other image's SIFT": Arm(_rich, "other", control=True),
    "block-wise": Arm(_blocks, control=True),
    "KAMIM weight": Arm(_random, loss_weight="kamim"),
    "KAMIM weight, relative": Arm(_random, loss_weight="kamim-relative"),
}


@dataclass(frozen=True)
class Protocol:
    """What all arms share.

    Parameters
    ----------
    model : a size of `semattn.pretraining.SIZES`, or a dict of the config
    learning_rate : for a batch of 256
    scale : least and greatest part of a picture that a crop shows
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
        """The arguments of `pretrain`."""
        names = ("model", "image_size", "patch_size", "epochs", "batch_size", "learning_rate",
                 "scale", "precision", "device", "workers", "reconstructions")  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def about(self, data: Data) -> dict[str, Any]:
        """What results must share to stand in one table."""
        shared = {
            **self.options(),
            "scale": list(self.scale),
            "beta": self.beta,
            "mask_ratio": RATIO,
        }
        for own in ("device", "workers", "reconstructions"):  # which change no result
            del shared[own]
        return {**shared, **data.about}

    def due(self, done: int) -> bool:
        """Whether an epoch is probed."""
        return done == self.epochs or done % max(1, self.epochs // PROBES) == 0


def file_of(results: Path, arm: str, seed: int) -> Path:
    """Where the result of an arm is kept."""
    return results / f"{short(arm)}-{seed}.json"


def run(
    arm: str, seed: int, data: Data, protocol: Protocol, work: Path, results: Path
) -> dict[str, Any]:
    """One arm with one seed: its curve, an entry an epoch, from before training on."""
    file = file_of(results, arm, seed)
    place = work / "runs" / file.stem
    about = protocol.about(data)
    made = read(file, about) or {
        "arm": arm, "seed": seed, "about": about, "curve": [], "finished": False,
    }  # fmt: skip
    if made["finished"]:
        return made
    curve: dict[int, dict[str, Any]] = {one["epoch"]: one for one in made["curve"]}
    chosen = ARMS[arm]
    if 0 not in curve:
        untrained = build_model(
            protocol.model, image_size=protocol.image_size, patch_size=protocol.patch_size,
            mask_ratio=RATIO, seed=seed,
        )  # fmt: skip
        curve[0] = {"epoch": 0, "seconds": 0.0, **probed(untrained, data)}
    clock = clock_of(protocol)
    since = clock()

    def after(under_way: Any, done: int, seconds: float) -> None:
        nonlocal since
        spent = clock() - since
        curve[0]["seconds"] = under_way.keypoints_seconds
        curve[done] = {"epoch": done, "seconds": curve[done - 1]["seconds"] + spent}
        if protocol.due(done):
            curve[done] |= probed(under_way.model, data)
        keep(file, {**made, "keypoints_seconds": under_way.keypoints_seconds,
                    "curve": [curve[epoch] for epoch in sorted(curve)]})  # fmt: skip
        since = clock()

    finished = pretrain(
        data.pictures, place, seed=seed,
        masking=chosen.masking(RATIO, seed, protocol.epochs, protocol.beta),
        density=chosen.density, loss_weight=chosen.loss_weight, cache=work / "keypoints",
        after_epoch=after, **protocol.options(),
    )  # fmt: skip
    made |= {
        "keypoints_seconds": finished.keypoints_seconds, "finished": True,
        "curve": [curve[epoch] for epoch in sorted(curve) if epoch <= protocol.epochs],
    }  # fmt: skip
    keep(file, made)
    shutil.rmtree(place / "checkpoints", ignore_errors=True)
    return made


def clock_of(protocol: Protocol) -> Callable[[], float]:
    """Seconds of this process on a processor, where all is done by it; of the wall elsewhere."""
    alone = not protocol.workers and (protocol.device == "cpu" or not torch.cuda.is_available())
    return time.process_time if alone else time.perf_counter


def read(file: Path, about: dict[str, Any]) -> dict[str, Any] | None:
    """A result that was begun; one by another protocol is refused."""
    if not file.exists():
        return None
    made: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if made["about"] != json.loads(json.dumps(about)):
        raise SystemExit(f"{file}: expected a result of this protocol, got one of another — "
                         "give another --results")  # fmt: skip
    return made


def keep(file: Path, made: dict[str, Any]) -> None:
    """Write a result: whole, or not at all."""
    write_text(file, json.dumps(made))


def floor(data: Data, protocol: Protocol, results: Path) -> dict[str, Any]:
    """The probes of raw pixels."""
    file, about = results / "raw_pixels.json", protocol.about(data)
    made = read(file, about)
    if made is None:
        made = {"arm": "raw pixels", "about": about, **raw(data)}
        keep(file, made)
    return made


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, default=cache_dir() / "bench-pretraining")
    parser.add_argument("--results", type=Path, help="results/pretraining beside this script, or "
                        "results/pretraining_validation")  # fmt: skip
    parser.add_argument("--part", default="0/1", help="which of several processes: 0/2, 1/2")
    parser.add_argument("--arms", default=",".join(short(arm) for arm in ARMS),
                        help=f"of {', '.join(map(short, ARMS))}")  # fmt: skip
    parser.add_argument("--seeds", help="by commas; those of the split if left out")
    parser.add_argument("--folder", type=Path, help="images as ImageNet's, with train/ and val/")
    parser.add_argument("--split", default="validation", choices=("validation", "test"))
    parser.add_argument("--pictures", type=int, default=10_000, help="photographs to learn from")
    parser.add_argument("--probe-train", type=int, default=3000, help="images for the probes")
    parser.add_argument("--probe-test", type=int, default=2000, help="images that test them")
    parser.add_argument("--model", default=None, help="tiny, small, base; smaller if left out")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--patch-size", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=8e-3, help="for a batch of 256")
    parser.add_argument("--beta", type=float, default=BETA, help="of the guided arms; a negative "
                        "one turns them round")  # fmt: skip
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu"))
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="seconds, on drawn images")
    return parser.parse_args(given)


def short(arm: str) -> str:
    """An arm's name as it is typed."""
    return arm.replace(", ", "-").replace("'s", "").replace(" ", "-")


def main(given: Sequence[str] | None = None) -> None:
    """Run what is not done yet."""
    options = arguments(given)
    results = options.results or RESULTS / (
        "pretraining" if options.split == "test" else "pretraining_validation"
    )
    for folder in (options.work, results):
        folder.mkdir(parents=True, exist_ok=True)
    names = {short(arm): arm for arm in ARMS}
    unknown = set(options.arms.split(",")) - names.keys()
    if unknown:
        raise SystemExit(f"--arms: expected some of {', '.join(names)}, got {', '.join(unknown)}")
    own = ",".join(map(str, SEEDS[options.split]))
    seeds = [int(one) for one in (options.seeds or own).split(",")]
    if options.smoke:
        data = pretraining_data.drawn(32, pictures=24, train=30, test=15)
        protocol = Protocol(
            LEAST, 32, 8, epochs=2, batch_size=8, beta=options.beta, device="cpu", reconstructions=0
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
        floor(data, protocol, results)
    todo = [(names[arm], seed) for seed in seeds for arm in options.arms.split(",")]
    for number, (arm, seed) in enumerate(todo):
        if number % parts != part:
            continue
        last = run(arm, seed, data, protocol, options.work, results)["curve"][-1]
        print(
            f"{arm}, seed {seed}: k-NN {last['knn']:.3f}, linear {last['linear']:.3f}, "
            f"fixed loss {last['fixed_loss']:.4f}, {last['seconds']:.0f} s", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
