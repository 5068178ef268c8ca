"""Effect of the target of masked pre-training: descriptors, pixels, and controls.

    python -m benchmarks.studies.pretraining.targets --seeds 0,1
    python -m benchmarks.studies.pretraining.targets_table

Every arm pre-trains the same masked autoencoder on the same images and differs in the target of the
masked patches, their loss weights, or the masks. For one seed, initial encoder, order and crops are
equal in all arms. After each epoch, k-NN and a linear probe evaluate the encoder; at the end it is
fine-tuned with 1,000 labels. Seconds are CPU seconds of the process with crops, targets, keypoints
and words, without probes. Seeds from 21 are tested on the test split, opened once; the others are
development seeds and are tested on the validation split. "supervised" is a model trained from
scratch with the 1,000 labels for the seconds of pixels' run and fine-tuning.

Each run has one file in ``--results``, written after each epoch; finished runs are skipped, and an
interrupted run continues after its last epoch. `targets_table` writes the tables.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import RESULTS_DIR
from semattn.zoo import cache_dir

from . import acceleration, pretraining_data
from .acceleration import BETA, LEAST, RATIO, SMALL, keep, read, short
from .fine_tuning import fine_tune
from .pretraining_data import Data
from .probes import encode, probe_pixels, run_probes
from .target_arms import DECISIVE, FIRST_FRESH_SEED, TARGET_ARMS, WINDOW
from .target_epochs import SeedEpochs
from .target_floors import descriptor_floors
from .target_rates import best_rate
from .target_training import model_of, pretrain_arm

FRESH_SEEDS = (21, 22, 23, 24, 25)
SUPERVISED = "supervised"
LARGER = {
    "hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 6, "intermediate_size": 768,
    "decoder_hidden_size": 96, "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 384,
}  # fmt: skip
MODELS = {"small": SMALL, "larger": LARGER, "least": LEAST}


@dataclass(frozen=True)
class TargetProtocol:
    """Parameters shared by all arms, in the name and in the content of each result."""

    model: str = "small"
    image_size: int = 64
    patch_size: int = 8
    epochs: int = 5
    batch_size: int = 32

    def about(self, data: Data) -> dict[str, Any]:
        """Return the parameters that are equal in all results of a table."""
        fixed = {"mask_ratio": RATIO, "window": WINDOW, "beta": BETA}
        return {**asdict(self), **fixed, **data.about}

    def name(self, data: Data) -> str:
        """Return the beginning of the names of the results."""
        pictures = data.about["pictures"]
        return (
            f"{short(data.about['data'])}-{pictures}-{self.image_size}px-{self.model}-"
            f"{self.epochs}epochs"
        )

    def due(self, done: int, every: int) -> bool:
        """Return whether this epoch is probed."""
        return done == self.epochs or done % every == 0


def file_of(results: Path, setting: str, arm: str, rate: float, seed: int) -> Path:
    """Return the path of the result of a run."""
    return results / f"{setting}-{short(arm)}-{rate:g}-{seed}.json"


def probe(model: Any, data: Data) -> dict[str, Any]:
    """Return k-NN and linear probe of a model."""
    return run_probes(encode(model, data.train.pixels), encode(model, data.test.pixels), data)


@dataclass(eq=False)
class Study:
    """Runs of one setting that share crops and the probes of untrained encoders."""

    protocol: TargetProtocol
    results: Path
    work: Path
    probe_every: int = 1
    fine_tunes: bool = True
    rates: dict[str, float] = field(default_factory=dict)  # of arms that differ from TARGET_ARMS

    def __post_init__(self) -> None:
        self._epochs: tuple[int, SeedEpochs] | None = None
        self._untrained: dict[int, dict[str, Any]] = {}

    def run(self, arm: str, seed: int, data: Data, rate: float | None = None) -> dict[str, Any]:
        """Train one arm with one seed, or read its finished result."""
        spec, protocol = TARGET_ARMS[arm], self.protocol
        rate = rate or self.rates.get(arm, spec.learning_rate)
        path = file_of(self.results, protocol.name(data), arm, rate, seed)
        about = protocol.about(data)
        result = read(path, about) or {
            "arm": arm, "seed": seed, "learning_rate": rate, "weight": spec.weight,
            "about": about, "curve": [], "finished": False,
        }  # fmt: skip
        if result["finished"]:
            return result
        curve = {entry["epoch"]: entry for entry in result["curve"]}

        def after(model: Any, done: int, seconds: float, loss: float) -> None:
            before = curve[done - 1]["seconds"] if done else 0.0
            curve[done] = {"epoch": done, "seconds": before + seconds,
                           "loss": loss if done else None}  # fmt: skip
            if not done:
                if seed not in self._untrained:
                    self._untrained[seed] = probe(model, data)
                curve[done] |= self._untrained[seed]
            elif protocol.due(done, self.probe_every):
                curve[done] |= probe(model, data)
            keep(path, {**result, "curve": [curve[epoch] for epoch in sorted(curve)]})

        masking = acceleration.ARMS[spec.masks].masking(RATIO, seed, protocol.epochs, BETA)
        model = pretrain_arm(
            spec, self.epochs_of(seed, data), masking, MODELS[protocol.model],
            number_of_epochs=protocol.epochs, batch_size=protocol.batch_size, learning_rate=rate,
            checkpoint=self.work / f"{path.stem}.pt", after_epoch=after,
        )  # fmt: skip
        result |= {"curve": [curve[epoch] for epoch in sorted(curve)], "finished": True}
        if self.fine_tunes:
            result |= fine_tune(model, data.train, data.test, seed)
        keep(path, result)
        return result

    def supervised(self, seed: int, data: Data) -> dict[str, Any]:
        """Train from scratch with the labels of fine-tuning, for the seconds of pixels' run."""
        protocol, about = self.protocol, self.protocol.about(data)
        path = file_of(self.results, protocol.name(data), SUPERVISED, 0.0, seed)
        if result := read(path, about):
            return result
        pixels = self.run("pixels", seed, data)
        if "finetune" not in pixels:
            raise SystemExit("supervised: expected a run of pixels with fine-tuning, got one "
                             "without — remove --no-fine-tuning")  # fmt: skip
        total = pixels["curve"][-1]["seconds"] + pixels["finetune_seconds"]
        epochs = round(pixels["finetune_epochs"] * total / pixels["finetune_seconds"])
        model = model_of(
            MODELS[protocol.model], protocol.image_size, protocol.patch_size, RATIO, seed, 1
        )
        tuned = fine_tune(model, data.train, data.test, seed, epochs)
        last = {
            "epoch": protocol.epochs,
            "seconds": tuned["finetune_seconds"],
            **probe(model, data),
        }
        result = {"arm": SUPERVISED, "seed": seed, "about": about, "curve": [last], **tuned}
        keep(path, {**result, "finished": True})
        return result

    def floors(self, data: Data) -> None:
        """Probe raw pixels and dense descriptors, without a model."""
        size, patch_size = self.protocol.image_size, self.protocol.patch_size
        about = {**data.about, "image_size": size, "patch_size": patch_size, "window": WINDOW}
        name, split = short(data.about["data"]), data.about["split"]
        path = self.results / f"{name}-{data.about['pictures']}-{size}px-floors-{split}.json"
        if not read(path, about):
            floors = {"raw pixels": probe_pixels(data)}
            floors |= descriptor_floors(data, patch_size)
            keep(path, {"about": about, "floors": floors})

    def epochs_of(self, seed: int, data: Data) -> SeedEpochs:
        """Return the crops of a seed; those of the last seed are kept."""
        if self._epochs is None or self._epochs[0] != seed:
            size, patch_size = self.protocol.image_size, self.protocol.patch_size
            self._epochs = (seed, SeedEpochs(data.pictures, size, patch_size, seed))
        return self._epochs[1]


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS_DIR / "pretraining_targets")
    parser.add_argument("--work", type=Path, default=cache_dir() / "bench-pretraining-targets")
    parser.add_argument("--part", default="0/1", help="index and number of processes: 0/2, 1/2")
    parser.add_argument("--seeds", default=",".join(map(str, FRESH_SEEDS)),
                        help=f"from {FIRST_FRESH_SEED}: tested on the test split")  # fmt: skip
    parser.add_argument("--arms", default=",".join(map(short, (*TARGET_ARMS, SUPERVISED))),
                        help="comma-separated; default: all")  # fmt: skip
    parser.add_argument("--rates", help="comma-separated learning rates; default: that of the arm")
    parser.add_argument(
        "--development", type=Path, help="folder of development runs: each arm has its best rate"
    )
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=10_000, help="45000 is the most")
    parser.add_argument("--size", type=int, default=64, help="of an image, pixels")
    parser.add_argument("--patch-size", type=int, default=8)
    parser.add_argument("--model", default="small", choices=tuple(MODELS))
    parser.add_argument("--folder", type=Path, help="data in ImageNet's layout, train/ and val/")
    parser.add_argument("--compositions", action="store_true", help="cut-outs on photographs")
    parser.add_argument("--probe-every", type=int, default=1, help="epochs between two probes")
    parser.add_argument("--no-fine-tuning", action="store_true")
    parser.add_argument("--smoke", action="store_true", help="a run of seconds on synthetic images")
    return parser.parse_args(argv)


def data_of(options: argparse.Namespace, seed: int) -> Data:
    """Return the images of a seed: the test split for fresh seeds."""
    split = "test" if seed >= FIRST_FRESH_SEED else "validation"
    if options.smoke:
        data = pretraining_data.synthetic(options.size, pictures=24, train=30, test=15)
        return Data(data.pictures, data.train, data.test, {**data.about, "split": split})
    sizes = {"size": options.size, "train": 3000, "test": 2000}
    if options.folder is not None:
        return pretraining_data.image_folder(options.folder, **sizes)
    if options.compositions:
        return pretraining_data.compositions(pictures=options.pictures, split=split, **sizes)
    return pretraining_data.cifar(pictures=options.pictures, split=split, **sizes)


def pending(arms: Sequence[str], seeds: Sequence[int]) -> list[tuple[str, int]]:
    """Return the runs: the decisive arms of all seeds first, then the others."""
    groups = [[arm for arm in arms if (arm in DECISIVE) == first] for first in (True, False)]
    return [(arm, seed) for group in groups for seed in seeds for arm in group]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the arms and seeds that have no result yet."""
    options = arguments(argv)
    for folder in (options.work, options.results):
        folder.mkdir(parents=True, exist_ok=True)
    if options.smoke:
        options.size, options.epochs, options.model = 32, 2, "least"
    names = {short(arm): arm for arm in (*TARGET_ARMS, SUPERVISED)}
    unknown = set(options.arms.split(",")) - names.keys()
    if unknown:
        raise SystemExit(f"--arms: expected names of {', '.join(names)}, got {', '.join(unknown)}")
    protocol = TargetProtocol(
        options.model, options.size, options.patch_size, options.epochs, 8 if options.smoke else 32
    )
    study = Study(protocol, options.results, options.work, options.probe_every,
                  not options.no_fine_tuning)  # fmt: skip
    rates = [float(rate) for rate in options.rates.split(",")] if options.rates else [None]
    if options.development is not None:
        study.rates = {
            arm: best_rate(options.development, arm, protocol.model, protocol.image_size)
            for arm in TARGET_ARMS
        }
        print(f"learning rates: {json.dumps(study.rates)}", flush=True)
    part, parts = map(int, options.part.split("/"))
    seeds = [int(seed) for seed in options.seeds.split(",")]
    is_fresh = {seed >= FIRST_FRESH_SEED for seed in seeds}
    if len(is_fresh) > 1:
        raise SystemExit("--seeds: expected development seeds or fresh seeds, got both — "
                         "start the command twice")  # fmt: skip
    data = data_of(options, seeds[0])
    if part == 0:
        study.floors(data)
    runs = [
        (arm, seed, rate)
        for arm, seed in pending([names[arm] for arm in options.arms.split(",")], seeds)
        for rate in (rates if arm != SUPERVISED else [None])
    ]
    for arm, seed, rate in runs[part::parts]:
        if arm == SUPERVISED:
            result = study.supervised(seed, data)
        else:
            result = study.run(arm, seed, data, rate)
        print(json.dumps(summary_of(result)), flush=True)


def summary_of(result: dict[str, Any]) -> dict[str, Any]:
    """Return the final figures of a run."""
    last = result["curve"][-1]
    return {
        "arm": result["arm"], "rate": result.get("learning_rate"), "seed": result["seed"],
        "knn": last["knn"], "linear": last["linear"], "finetune": result.get("finetune"),
        "seconds": round(last["seconds"], 1),
    }  # fmt: skip


if __name__ == "__main__":
    main()
