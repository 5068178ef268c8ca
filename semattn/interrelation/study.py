"""`Study`: state of an analysis that runs batch by batch and skips unusable images."""

from __future__ import annotations

import hashlib
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
from ..data.loading import ImageLoader, LoadedBatch, Skipped
from ..density import Scene, concentration, densities, strata
from ..errors import ImageError, SemattnError, ShapeError
from ..grid import PatchGrid
from ..images import Images, Preprocessing
from ..keypoints import Keypoints, detectors
from ..utils.progress import Progress
from ..utils.provenance import about_model, versions
from .accumulate import Tally
from .analysis import Analysis
from .analysis_files import Fill, load_partial, mismatch_error, save_partial
from .measure import measure
from .nulls import Pool, keys_of, patch_distributions
from .outliers import find_outliers

NO_KEYPOINTS = "no keypoint in any patch"
NOT_FINITE = "the model's output is not finite"
BATCHES_BETWEEN_SAVES = 20  # between two saves of the partial file
MAX_FILL_FACTOR = 8  # images read to fill the pool, in multiples of its size


class Study:
    """State of a running analysis.

    Parameters
    ----------
    model : a vision transformer
    options : all of density, detector, layers, draws, pool, replicates, batch_size, preprocessing
        and seed, as for `analyze`
    about : result of `about_model` for the model, if available, to avoid hashing the weights again
    """

    def __init__(
        self, model: nn.Module, options: dict[str, Any], about: dict[str, Any] | None = None
    ) -> None:
        self.model, self.options = model, options
        self.density = densities.ensure(options["density"])
        if self.density is densities["other"]:
            raise ValueError(
                "density: expected a density of the image itself, got 'other' — choose another "
                "density; the null 'other' already compares with other images"
            )
        detectors.ensure(options["detector"])
        preprocessing = options["preprocessing"] or cache(lambda: Preprocessing.of(model))
        needs = getattr(self.density, "needs", ("keypoints",))
        self.image_loader = ImageLoader(preprocessing, options["detector"], needs)
        parameters = {name: _to_json(value) for name, value in options.items()}
        parameters["preprocessing"] = parameters["preprocessing"] or _describe_preprocessing(model)
        about = about or about_model(model)
        self.manifest = about | {"options": parameters, "versions": versions()}
        self.pool = Pool(options["pool"])
        self.tally: Tally | None = None
        self.grid: PatchGrid | None = None
        self.skipped: list[Skipped] = []
        # Number of images read to fill the pool, whether they were all images, their digest.
        self.fill: Fill = (0, False, "")

    def anew(self) -> Study:
        """Return an empty study of the same model and options; the grid is kept."""
        study = copy(self)
        study.pool = Pool(self.options["pool"])
        study.tally, study.skipped = None, []
        return study

    def find_grid(self, loaded: LoadedBatch) -> None:
        """Determine the patch grid from a forward pass of the first image."""
        assert loaded.images is not None
        inputs = self._inputs(loaded.images)[:1]
        self.grid = record(self.model, inputs, layers=self.options["layers"], grad=False).grid

    def _inputs(self, images: Images) -> Tensor:
        return move_to_model(self.model, images.inputs, prepared=images.prepared)

    def pooled(self, batches: Iterator[LoadedBatch]) -> Iterator[LoadedBatch]:
        """Fill the pool from the first batches, and return an iterator over all batches."""
        return chain(self._fill_pool(batches), batches)

    def take_all(
        self,
        batches: Iterator[LoadedBatch],
        partial: Path | None,
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
        if partial is not None and partial.exists():
            saved, done, saved_digest, fill = load_partial(partial, self.manifest)
            self.tally, self.grid, self.skipped = saved.tally, saved.grid, list(saved.skipped)
        self.image_loader.identifies = partial is not None
        remaining = self.pooled(batches)
        if partial is not None and done and fill != self.fill:
            raise mismatch_error(partial, "other images")
        for number, loaded in enumerate(remaining, 1):
            n_before, n_read = n_read, n_read + loaded.n_sources
            digest.update(_encode_identities(loaded.identities))
            is_changed = (n_read, digest.hexdigest()) != (done, saved_digest)
            if partial is not None and n_before < done <= n_read and is_changed:
                raise mismatch_error(partial, "other images")
            if n_read <= done:
                self._enter_pool(loaded)
                continue
            self.take(loaded)
            progress("analyzing", n_read, total)
            is_due = number % BATCHES_BETWEEN_SAVES == 0 and self.tally and self.tally.images
            if partial is not None and is_due:
                save_partial(self.result(), partial, n_read, digest.hexdigest(), self.fill)
        if partial is not None:
            if n_read < done:
                raise mismatch_error(partial, "more images")
            partial.unlink(missing_ok=True)

    def drop_changed(self, partial: Path, images: Sequence[Any]) -> int:
        """Remove a partial result unless the list of images begins with its images.

        Returns
        -------
        int
            Number of images in the removed result; 0 if nothing was removed.
        """
        if not partial.exists():
            return 0
        _, done, saved_digest, (filled, ended, fill_digest) = load_partial(partial, self.manifest)
        count = len(images)
        ends_on_batch = done % self.options["batch_size"] == 0 or done == count
        # The pool may hold images that were not analysed yet.
        if ends_on_batch and max(done, filled) <= count and not (ended and filled != count):
            digests = self._digest_at(images, {done, filled})
            if (digests[done], digests[filled]) == (saved_digest, fill_digest):
                return 0
        partial.unlink()
        return done

    def _digest_at(self, images: Sequence[Any], counts: set[int]) -> dict[int, str]:
        """Return the digest of the identities of the first n images, for each n of `counts`."""
        digest = hashlib.sha256()
        digests = {0: digest.hexdigest()}
        for number in range(max(counts)):
            digest.update(
                _encode_identities(self.image_loader.identities(number, [images[number]]))
            )
            if number + 1 in counts:
                digests[number + 1] = digest.hexdigest()
        return digests

    def take(self, loaded: LoadedBatch) -> None:
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
            p, strata_of_s, ~is_outlier, scene, self.options["draws"], self.pool
        )
        with torch.no_grad(), torch.autocast(inputs.device.type, enabled=False):
            measured = measure(attention, distributions, layout.class_tokens)
        if self.tally is None or self.grid is None:
            self.tally = Tally(measured.layers, self.options["replicates"])
            self.grid = attention.grid
        if token_norms is None:
            measured = measured.without_outliers()
        keys = {i: key for i, key in enumerate(keys_of(scene)) if not reasons[i]}
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
                "one value a patch of each image"
            )
        strata_of_s = strata(s, scene.seed)
        is_empty = (s == 0).all(dim=1, keepdim=True)  # such images are skipped, so no warning
        return scene, s, concentration(torch.where(is_empty, 1.0, s)), strata_of_s

    def _enter_pool(self, loaded: LoadedBatch, max_size: int | None = None) -> None:
        """Enter a batch into the pool without measuring it, up to `max_size` images."""
        if loaded.images is None or not self.options["pool"]:
            return
        if self.grid is None:
            self.find_grid(loaded)
            assert self.grid is not None
        scene, _, *p_and_strata = self._measure_density(loaded.images, loaded.keypoints, self.grid)
        for key, p, image_strata in zip(keys_of(scene), *p_and_strata, strict=True):
            if max_size is None or len(self.pool) < max_size:
                self.pool.enter(key, p, image_strata)

    def _fill_pool(self, batches: Iterator[LoadedBatch]) -> list[LoadedBatch]:
        """Read as many batches as the pool needs, and return them."""
        batches_read: list[LoadedBatch] = []
        max_size, n_read, ended = self.options["pool"], 0, False
        while len(self.pool) < max_size and n_read < MAX_FILL_FACTOR * max_size:
            if (loaded := next(batches, None)) is None:
                ended = True
                break
            batches_read.append(loaded)
            n_read += loaded.n_sources
            self._enter_pool(loaded, max_size=max_size)
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


def _to_json(value: Any) -> Any:
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
