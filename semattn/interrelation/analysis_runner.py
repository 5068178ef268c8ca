"""`analyze`, and the runner behind it: batch by batch, resumable, without unusable images.

An audit uses one `AnalysisRunner` for each of its units.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from copy import copy
from functools import cache
from itertools import chain
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..attention import AttentionRecord, record
from ..attention.layer_readout import norms_on, watch_norms
from ..attention.model_call import ModelCall, move_to_model
from ..attention.record import with_readout
from ..attention.sites import Layers, check_model
from ..data.loading import (
    ImageLoader,
    LoadedBatch,
    Skipped,
    as_iterable,
    has_spare_cores,
    load_ahead,
)
from ..density import Scene, concentration, densities, density_needs, strata
from ..errors import ImageError, SemattnError, ShapeError
from ..grid import PatchGrid
from ..images import Images, Preprocessing
from ..keypoints import Keypoints, detectors
from ..utils.processes import Progress, ignore_progress
from ..utils.provenance import about_model, versions
from .accumulate import Tally
from .analysis import Analysis
from .analysis_files import Fill, check_writable, load_resume_file, mismatch_error, save_resume_file
from .measure import measure
from .nulls import ConcentrationPool, find_outliers, image_keys, patch_distributions

NO_KEYPOINTS = "no keypoint in any patch"
NOT_FINITE = "the model's output is not finite"
BATCHES_BETWEEN_SAVES = 20  # between two saves of the resume file
MAX_FILL_FACTOR = 8  # images read to fill the pool, in multiples of its size


def analyze(
    model: nn.Module,
    images: Any,
    *,
    density: Any = "count",
    detector: Any = "sift",
    layers: Layers = None,
    n_null: int | None = None,
    pool_size: int = 32,
    n_bootstrap: int = 200,
    batch_size: int = 4,
    preprocessing: Preprocessing | None = None,
    seed: int = 0,
    resume_file: str | Path | None = None,
    progress: Progress | None = None,
) -> Analysis:
    """Analyse the weighted patch interrelation of one or more images.

    Each image needs one forward pass, without gradients. Memory does not grow with the number of
    images. Images that cannot be read, and images without a keypoint, are skipped and listed in
    `Analysis.skipped`; for a single image the error is raised.

    Parameters
    ----------
    model : a vision transformer
    images : an image in any form that `semattn.images.prepare` accepts, a batch (B, C, H, W) of
        model inputs, or a list or an iterable of images
    density, detector, preprocessing, seed : as for `semattn.explain.Explainer`
    layers : self-attention layers to analyse; None for all
    n_null : R, number of draws of each null per image; None is 3, or 20 for a single image
    pool_size : number of preceding images that the null `other` draws from (the first images draw
        from each other); the null is left out if the pool has fewer than 3
    n_bootstrap : number of bootstrap samples of the images, for intervals
    batch_size : images per forward pass
    resume_file : file that saves intermediate results, and from which an interrupted run resumes if
        the images begin with those in the file, unchanged; removed at the end
    progress : called with the stage, the number of finished images and the total, if it is known

    Raises
    ------
    UnsupportedModelError
        As for `semattn.record`.
    ImageError
        If a single image is unusable, or no image of a list is usable.
    AnalysisFileError
        If `resume_file` has another model or other options, or has other images and `images` is an
        iterator.

    Warns
    -----
    UserWarning
        If images in `resume_file` were changed or removed: the analysis starts again.

    Examples
    --------
    >>> import timm, torch
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> analysis = analyze(vit, torch.rand(1, 3, 64, 64, generator=torch.manual_seed(0)))
    >>> analysis.mean("alignment").shape  # layers, heads
    (6, 2)
    """
    image_list, total = as_iterable(images)
    if n_null is None:
        n_null = 20 if image_list is None else 3
    for name, value, minimum in (
        ("n_null", n_null, 2), ("pool_size", pool_size, 0), ("n_bootstrap", n_bootstrap, 0),
        ("batch_size", batch_size, 1), ("seed", seed, 0),
    ):  # fmt: skip
        if value < minimum:
            raise ValueError(f"{name}: expected at least {minimum}, got {value}")
    module = check_model(model, compiled=True)
    options = {
        "density": density, "detector": detector, "layers": layers, "n_null": n_null,
        "pool_size": pool_size, "n_bootstrap": n_bootstrap, "batch_size": batch_size, "seed": seed,
        "preprocessing": preprocessing,
    }  # fmt: skip
    runner = AnalysisRunner(module, options)
    if resume_file is not None:
        check_writable(Path(resume_file))
        if isinstance(image_list, Sequence) or hasattr(image_list, "ndim"):
            _drop_changed(runner, Path(resume_file), image_list)
    if image_list is None:
        loaded = runner.image_loader.load(0, [images], strict=True)
        for note in loaded.images.notes if loaded.images else ():
            warnings.warn(note, stacklevel=2)
        runner.add_batch(loaded)
    else:
        runner.add_batches(
            load_ahead(runner.image_loader.load, image_list, batch_size, has_spare_cores(module)),
            None if resume_file is None else Path(resume_file),
            progress or ignore_progress,
            total,
        )
    return runner.result()


def _drop_changed(runner: AnalysisRunner, resume_file: Path, images: Any) -> None:
    """Warn and start again if the analysed images are no longer the first ones of the list."""
    if n_dropped := runner.drop_changed(resume_file, images):
        warnings.warn(
            f"the analysis starts again: of the {n_dropped} images of the interrupted run, "
            "some were edited, added, removed or moved",
            stacklevel=3,
        )


class AnalysisRunner:
    """State of a running analysis.

    Parameters
    ----------
    model : a vision transformer
    options : all of density, detector, layers, n_null, pool_size, n_bootstrap, batch_size,
        preprocessing and seed, as for `analyze`
    about : result of `about_model` for the model, if available, to avoid hashing the weights again
    """

    def __init__(
        self, model: nn.Module, options: dict[str, Any], about: dict[str, Any] | None = None
    ) -> None:
        self.model, self.options = model, options
        self.density = densities.resolve(options["density"])
        if self.density is densities["other"]:
            raise ValueError(
                "density: expected a density of the image itself, got 'other' — choose another "
                "density; the null 'other' already compares with other images"
            )
        detectors.resolve(options["detector"])
        preprocessing = options["preprocessing"] or cache(
            lambda: Preprocessing.of(model, needed_by="semattn.analyze")
        )
        needs = density_needs(self.density)
        self.image_loader = ImageLoader(preprocessing, options["detector"], needs)
        parameters = {name: _option_to_json(value) for name, value in options.items()}
        parameters["preprocessing"] = parameters["preprocessing"] or _describe_preprocessing(model)
        about = about or about_model(model)
        self.manifest = about | {"options": parameters, "versions": versions()}
        self.pool = ConcentrationPool(options["pool_size"])
        self.tally: Tally | None = None
        self.grid: PatchGrid | None = None
        self.skipped: list[Skipped] = []
        # Number of images read to fill the pool, whether they were all images, their digest.
        self.fill: Fill = (0, False, "")

    def empty_copy(self) -> AnalysisRunner:
        """Return an empty runner of the same model and options; the grid is kept."""
        runner = copy(self)
        runner.pool = ConcentrationPool(self.options["pool_size"])
        runner.tally, runner.skipped = None, []
        return runner

    def find_grid(self, loaded: LoadedBatch) -> None:
        """Determine the patch grid from a forward pass of the first image."""
        assert loaded.images is not None
        inputs = self._inputs(loaded.images)[:1]
        self.grid = record(self.model, inputs, layers=self.options["layers"], grad=False).grid

    def _inputs(self, images: Images) -> Tensor:
        return move_to_model(self.model, images.inputs, prepared=images.prepared)

    def fill_pool(self, batches: Iterator[LoadedBatch]) -> Iterator[LoadedBatch]:
        """Fill the pool from the first batches, and return an iterator over all batches."""
        return chain(self._read_for_pool(batches), batches)

    def add_batches(
        self,
        batches: Iterator[LoadedBatch],
        resume_file: Path | None,
        progress: Progress,
        total: int | None,
    ) -> None:
        """Measure every batch; resume after the images of a partial result, if there is one.

        Raises
        ------
        AnalysisFileError
            If the partial result has other options, or its images are not the first images.
        """
        done, n_read, saved_digest, fill, digest = 0, 0, "", self.fill, hashlib.sha256()
        if resume_file is not None and resume_file.exists():
            saved, done, saved_digest, fill = load_resume_file(resume_file, self.manifest)
            self.tally, self.grid, self.skipped = saved.tally, saved.grid, list(saved.skipped)
        self.image_loader.identifies = resume_file is not None
        remaining = self.fill_pool(batches)
        if resume_file is not None and done and fill != self.fill:
            raise mismatch_error(resume_file, "other images")
        for number, loaded in enumerate(remaining, 1):
            n_before, n_read = n_read, n_read + loaded.n_sources
            digest.update(_encode_identities(loaded.identities))
            is_changed = (n_read, digest.hexdigest()) != (done, saved_digest)
            if resume_file is not None and n_before < done <= n_read and is_changed:
                raise mismatch_error(resume_file, "other images")
            if n_read <= done:
                self._add_to_pool(loaded)
                continue
            self.add_batch(loaded)
            progress("analyzing", n_read, total)
            is_due = number % BATCHES_BETWEEN_SAVES == 0 and self.tally and self.tally.images
            if resume_file is not None and is_due:
                save_resume_file(self.result(), resume_file, n_read, digest.hexdigest(), self.fill)
        if resume_file is not None:
            if n_read < done:
                raise mismatch_error(resume_file, "more images")
            resume_file.unlink(missing_ok=True)

    def drop_changed(self, resume_file: Path, images: Sequence[Any]) -> int:
        """Remove a partial result unless the list of images begins with its images.

        Returns
        -------
        int
            Number of images in the removed result; 0 if nothing was removed.
        """
        if not resume_file.exists():
            return 0
        _, done, saved_digest, (filled, ended, fill_digest) = load_resume_file(
            resume_file, self.manifest
        )
        count = len(images)
        ends_on_batch = done % self.options["batch_size"] == 0 or done == count
        # The pool may hold images that were not analysed yet.
        if ends_on_batch and max(done, filled) <= count and not (ended and filled != count):
            digests = self._digest_at(images, {done, filled})
            if (digests[done], digests[filled]) == (saved_digest, fill_digest):
                return 0
        resume_file.unlink()
        return done

    def _digest_at(self, images: Sequence[Any], counts: set[int]) -> dict[int, str]:
        """Return the digest of the identities of the first n images, for each n of `counts`."""
        digest = hashlib.sha256()
        digests = {0: digest.hexdigest()}
        for number in range(max(counts)):
            identities = self.image_loader.identities(number, [images[number]])
            digest.update(_encode_identities(identities))
            if number + 1 in counts:
                digests[number + 1] = digest.hexdigest()
        return digests

    def add_batch(self, loaded: LoadedBatch) -> None:
        """Measure one batch and add it to the tally."""
        self.skipped += loaded.skipped
        if loaded.images is None:
            return
        inputs = self._inputs(loaded.images)
        layout = with_readout(self.model, ModelCall((inputs,), {}, 0))
        with watch_norms(self.model, layout.self_attention_sites) as norms:
            attention = record(self.model, inputs, layers=self.options["layers"], grad=False)
        scene, s, p, strata_of_s = self._measure_density(
            loaded.images, loaded.keypoints, attention.grid
        )
        reasons = _skip_reasons(attention, s)
        names = loaded.images.names
        pairs = zip(names, reasons, strict=True)
        self.skipped += [Skipped(name, reason) for name, reason in pairs if reason]
        token_norms = norms_on(attention.grid, norms, attention.in_order)
        is_outlier = torch.zeros_like(s).bool()
        if token_norms is not None:
            is_outlier = find_outliers(token_norms, strata_of_s)
        distributions = patch_distributions(
            p, strata_of_s, ~is_outlier, scene, self.options["n_null"], self.pool
        )
        with torch.no_grad(), torch.autocast(inputs.device.type, enabled=False):
            measured = measure(attention, distributions, layout.class_tokens)
        if self.tally is None or self.grid is None:
            self.tally = Tally(measured.layers, self.options["n_bootstrap"])
            self.grid = attention.grid
        if token_norms is None:
            measured = measured.without_outliers()
        keys = {i: key for i, key in enumerate(image_keys(scene)) if not reasons[i]}
        self.tally.add(measured, distributions, keys, scene.seed)

    def result(self) -> Analysis:
        """Return the analysis of the images so far; raise ImageError if there are none."""
        if self.tally is None or self.grid is None or not self.tally.images:
            reasons = "; ".join(f"{skipped.name}: {skipped.reason}" for skipped in self.skipped[:3])
            more = f" (and {len(self.skipped) - 3} more)" if len(self.skipped) > 3 else ""
            raise ImageError(
                f"images: expected at least one usable image, got {reasons or 'none'}{more} — "
                "give readable photographs"
            )
        return Analysis(self.tally, self.grid, tuple(self.skipped), self.manifest)

    def _measure_density(
        self, images: Images, keypoints: list[Keypoints], grid: PatchGrid
    ) -> tuple[Scene, Tensor, Tensor, Tensor]:
        """Return the scene of a batch, and its density, concentration and strata, (B, P) each."""
        scene = Scene(images.pixels, keypoints, grid, self.options["seed"])
        s = self.density(scene)
        if s.shape != (len(scene), grid.patches):
            raise ShapeError(
                f"density: expected ({len(scene)}, {grid.patches}), got {tuple(s.shape)} — "
                "one value per image and patch"
            )
        strata_of_s = strata(s, scene.seed)
        is_empty = (s == 0).all(dim=1, keepdim=True)  # such images are skipped, so no warning
        return scene, s, concentration(torch.where(is_empty, 1.0, s)), strata_of_s

    def _add_to_pool(self, loaded: LoadedBatch, max_size: int | None = None) -> None:
        """Add a batch to the pool without measuring it, up to `max_size` images."""
        if loaded.images is None or not self.options["pool_size"]:
            return
        if self.grid is None:
            self.find_grid(loaded)
            assert self.grid is not None
        scene, _, *p_and_strata = self._measure_density(loaded.images, loaded.keypoints, self.grid)
        for key, p, image_strata in zip(image_keys(scene), *p_and_strata, strict=True):
            if max_size is None or len(self.pool) < max_size:
                self.pool.add(key, p, image_strata)

    def _read_for_pool(self, batches: Iterator[LoadedBatch]) -> list[LoadedBatch]:
        """Read as many batches as the pool needs, and return them."""
        batches_read: list[LoadedBatch] = []
        max_size, n_read, ended = self.options["pool_size"], 0, False
        while len(self.pool) < max_size and n_read < MAX_FILL_FACTOR * max_size:
            if (loaded := next(batches, None)) is None:
                ended = True
                break
            batches_read.append(loaded)
            n_read += loaded.n_sources
            self._add_to_pool(loaded, max_size=max_size)
        self.pool.max_size = len(self.pool)  # the size is fixed from now on
        lines = b"".join(_encode_identities(loaded.identities) for loaded in batches_read)
        digest = hashlib.sha256(lines).hexdigest()
        self.fill = (n_read, ended, digest)
        return batches_read


def _encode_identities(identities: Sequence[str]) -> bytes:
    return "".join(f"{identity}\n" for identity in identities).encode("utf-8", "surrogateescape")


def _skip_reasons(attention: AttentionRecord, s: Tensor) -> list[str]:
    """Return for each image why it is skipped; "" if it is used."""
    is_finite = attention.logits.isfinite().reshape(len(s), -1).all(dim=1).tolist()
    is_empty = (s == 0).all(dim=1).tolist()
    return [
        NOT_FINITE if not finite else NO_KEYPOINTS if empty else ""
        for finite, empty in zip(is_finite, is_empty, strict=True)
    ]


def _describe_preprocessing(model: nn.Module) -> str | None:
    """Describe the model's own preprocessing; None if unknown, so that only tensors work."""
    try:
        return str(Preprocessing.of(model))
    except SemattnError:
        return None


def _option_to_json(value: Any) -> Any:
    """Convert an option for JSON."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Preprocessing):
        return str(value)
    if isinstance(value, (list, tuple, range)):
        return [int(number) for number in value]
    return (
        str(value) if isinstance(value, slice) else getattr(value, "__name__", type(value).__name__)
    )
