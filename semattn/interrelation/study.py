"""`Study`: one analysis under way, batch by batch; what cannot be measured is left out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import cache
from itertools import chain
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..attention import AttentionRecord, record
from ..attention.model_call import ModelCall
from ..attention.model_inputs import move_to_model
from ..attention.norms import norms_on, watch_norms
from ..attention.readout import with_readout
from ..density import Scene, concentration, densities, strata
from ..errors import ImageError, SemattnError, ShapeError
from ..grid import PatchGrid
from ..images import Images, Preprocessing
from ..keypoints import Keypoints, detectors
from ..manifest import about_model, versions
from .analysis import Analysis
from .figures import Skipped
from .measure import measure
from .nulls import Pool, held, keys_of
from .outliers import outliers
from .reading import Loaded, Reader
from .store import Fill, load_partial, not_the_beginning, save_partial
from .tally import Tally

BLANK = "no keypoint in any patch: there is nothing to hold attention against"
BROKEN = "the model's output is not finite"
EVERY = 20  # batches between two writings of the partial file
FILL = 8  # how many times the pool's images are read to fill it, where many are blank


class Study:
    """One analysis under way.

    Parameters
    ----------
    model : a vision transformer
    options : density, detector, layers, draws, pool, replicates, batch_size, preprocessing and
        seed, all of them, as of `analyze`
    about : the model's `about_model`, where it is known: its weights are not read anew
    """

    def __init__(
        self, model: nn.Module, options: dict[str, Any], about: dict[str, Any] | None = None
    ) -> None:
        self.model, self.options = model, options
        self.density = densities.ensure(options["density"])
        if self.density is densities["other"]:
            raise ValueError(
                "density: expected one that an image has by itself, got 'other' — "
                "the null `other` of every analysis holds attention against other images"
            )
        detectors.ensure(options["detector"])
        wanted = options["preprocessing"] or cache(lambda: Preprocessing.of(model))
        needs = getattr(self.density, "needs", ("keypoints",))
        self.reader = Reader(wanted, options["detector"], needs)
        said = {name: _said(value) for name, value in options.items()}
        said["preprocessing"] = said["preprocessing"] or _own_preprocessing(model)
        about = about or about_model(model)
        self.manifest = about | {"options": said, "versions": versions()}
        self.pool = Pool(options["pool"])
        self.tally: Tally | None = None
        self.grid: PatchGrid | None = None
        self.skipped: list[Skipped] = []
        # Number of images that filled the pool, whether there were no more, digest of them.
        self.fill: Fill = (0, False, "")

    def anew(self) -> Study:
        """Another one of the same model and options, with nothing in it but the grid."""
        made = copy(self)
        made.pool = Pool(self.options["pool"])
        made.tally, made.skipped = None, []
        return made

    def find_grid(self, loaded: Loaded) -> None:
        """Learn from a pass of the first image how the model cuts all of them."""
        assert loaded.images is not None
        inputs = self._inputs(loaded.images)[:1]
        self.grid = record(self.model, inputs, layers=self.options["layers"], grad=False).grid

    def _inputs(self, images: Images) -> Tensor:
        return move_to_model(self.model, images.inputs, prepared=images.prepared)

    def pooled(self, batches: Iterator[Loaded]) -> Iterator[Loaded]:
        """The same batches, once the pool is full of what they begin with."""
        return chain(self._fill_pool(batches), batches)

    def take_all(
        self,
        batches: Iterator[Loaded],
        partial: Path | None,
        progress: Callable[[int], None],
    ) -> None:
        """Measure every batch, from where a partial result ends, if there is one.

        Raises
        ------
        AnalysisFileError
            For a partial result of other options, or of other images than those that come first.
        """
        done, seen, kept, fill, inputs = 0, 0, "", self.fill, hashlib.sha256()
        if partial is not None and partial.exists():
            begun, done, kept, fill = load_partial(partial, self.manifest)
            self.tally, self.grid, self.skipped = begun.tally, begun.grid, list(begun.skipped)
        self.reader.identifies = partial is not None
        following = self.pooled(batches)
        if partial is not None and done and fill != self.fill:
            raise not_the_beginning(partial, "other images")
        for number, one in enumerate(following, 1):
            before, seen = seen, seen + one.given
            inputs.update(_lines(one.identities))
            differ = before < done <= seen and (seen, inputs.hexdigest()) != (done, kept)
            if partial is not None and differ:
                raise not_the_beginning(partial, "other images")
            if seen <= done:
                self._pass(one)
                continue
            self.take(one)
            progress(seen)
            if partial is not None and number % EVERY == 0 and self.tally and self.tally.images:
                save_partial(self.result(), partial, seen, inputs.hexdigest(), self.fill)
        if partial is not None:
            if seen < done:
                raise not_the_beginning(partial, "more images")
            partial.unlink(missing_ok=True)

    def drop_changed(self, partial: Path, images: Sequence[Any]) -> int:
        """Remove a partial result unless a list of images begins with those that are in it.

        Returns
        -------
        The number of images in a result that was removed, 0 where it stays or there is none.
        """
        if not partial.exists():
            return 0
        _, done, kept, (filled, ended, fill) = load_partial(partial, self.manifest)
        count = len(images)
        whole_batches = done % self.options["batch_size"] == 0 or done == count
        # The pool holds the first images, also those that were not analysed yet.
        if whole_batches and max(done, filled) <= count and not (ended and filled != count):
            digests = self._digest_at(images, {done, filled})
            if (digests[done], digests[filled]) == (kept, fill):
                return 0
        partial.unlink()
        return done

    def _digest_at(self, images: Sequence[Any], counts: set[int]) -> dict[int, str]:
        """Return the digest of the identities of the first images, by their number."""
        inputs = hashlib.sha256()
        found = {0: inputs.hexdigest()}
        for number in range(max(counts)):
            inputs.update(_lines(self.reader.identities(number, [images[number]])))
            if number + 1 in counts:
                found[number + 1] = inputs.hexdigest()
        return found

    def take(self, loaded: Loaded) -> None:
        """Measure one batch and add it up."""
        self.skipped += loaded.skipped
        if loaded.images is None:
            return
        inputs = self._inputs(loaded.images)
        layout = with_readout(self.model, ModelCall((inputs,), {}, 0))
        with watch_norms(self.model, layout.selves) as norms:
            taken = record(self.model, inputs, layers=self.options["layers"], grad=False)
        scene, s, p, sorted_in = self._sorted(loaded.images, loaded.keypoints, taken.grid)
        reasons = _unusable(taken, s)
        names = loaded.images.names
        self.skipped += [Skipped(*one) for one in zip(names, reasons, strict=True) if one[1]]
        found = norms_on(taken.grid, norms, taken.in_order)
        flagged = torch.zeros_like(s).bool() if found is None else outliers(found, sorted_in)
        against = held(p, sorted_in, ~flagged, scene, self.options["draws"], self.pool)
        with torch.no_grad(), torch.autocast(inputs.device.type, enabled=False):
            measured = measure(taken, against, layout.class_tokens)
        if self.tally is None or self.grid is None:
            self.tally = Tally(measured.layers, self.options["replicates"])
            self.grid = taken.grid
        if found is None:
            measured = measured.without_outliers()
        keys = {i: key for i, key in enumerate(keys_of(scene)) if not reasons[i]}
        self.tally.add(measured, against, keys, scene.seed)

    def result(self) -> Analysis:
        """What came out so far."""
        if self.tally is None or self.grid is None or not self.tally.images:
            reasons = "; ".join(f"{one.name}: {one.reason}" for one in self.skipped[:3])
            more = f" (and {len(self.skipped) - 3} more)" if len(self.skipped) > 3 else ""
            raise ImageError(
                f"images: expected one that can be analysed at least, got {reasons or 'none'}{more}"
                " — give photographs"
            )
        return Analysis(self.tally, self.grid, tuple(self.skipped), self.manifest)

    def _sorted(
        self, images: Images, keypoints: list[Keypoints], grid: PatchGrid
    ) -> tuple[Scene, Tensor, Tensor, Tensor]:
        """The images of a batch on a grid, their density, concentration and strata, (B, P) each."""
        scene = Scene(images.pixels, keypoints, grid, self.options["seed"])
        s = self.density(scene)
        if s.shape != (len(scene), grid.patches):
            raise ShapeError(
                f"density: expected ({len(scene)}, {grid.patches}), got {tuple(s.shape)} — "
                "one value a patch of each image"
            )
        sorted_in = strata(s, scene.seed)
        blank = (s == 0).all(dim=1, keepdim=True)  # uniform without a warning: skipped, and listed
        return scene, s, concentration(torch.where(blank, 1.0, s)), sorted_in

    def _pass(self, loaded: Loaded, full: int | None = None) -> None:
        """Let a batch enter the pool without being measured, until the pool is `full`."""
        if loaded.images is None or not self.options["pool"]:
            return
        if self.grid is None:
            self.find_grid(loaded)
            assert self.grid is not None
        scene, _, *both = self._sorted(loaded.images, loaded.keypoints, self.grid)
        for key, p, sorted_in in zip(keys_of(scene), *both, strict=True):
            if full is None or len(self.pool) < full:
                self.pool.enter(key, p, sorted_in)

    def _fill_pool(self, batches: Iterator[Loaded]) -> list[Loaded]:
        """Read as many batches as the pool needs; they are handed back, to be measured."""
        first: list[Loaded] = []
        most, ended = self.options["pool"], False
        while len(self.pool) < most and sum(one.given for one in first) < FILL * most:
            if (one := next(batches, None)) is None:
                ended = True
                break
            first.append(one)
            self._pass(one, full=most)
        self.pool.most = len(self.pool)  # it stays as large, whatever comes
        lines = b"".join(_lines(one.identities) for one in first)
        digest = hashlib.sha256(lines).hexdigest()
        self.fill = (sum(one.given for one in first), ended, digest)
        return first


def _lines(identities: Sequence[str]) -> bytes:
    return "".join(f"{one}\n" for one in identities).encode("utf-8", "surrogateescape")


def _unusable(taken: AttentionRecord, s: Tensor) -> list[str]:
    """Why an image has no part in the figures; "" for one that has."""
    finite = taken.logits.isfinite().reshape(len(s), -1).all(dim=1).tolist()
    blank = (s == 0).all(dim=1).tolist()
    return [
        BROKEN if not whole else BLANK if empty else ""
        for whole, empty in zip(finite, blank, strict=True)
    ]


def _own_preprocessing(model: nn.Module) -> str | None:
    """The model's own, in words; None where nothing tells, so that only tensors can be given."""
    try:
        return str(Preprocessing.of(model))
    except SemattnError:
        return None


def _said(value: Any) -> Any:
    """An option, ready for JSON."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Preprocessing):
        return str(value)
    if isinstance(value, (list, tuple, range)):
        return [int(one) for one in value]
    return (
        str(value) if isinstance(value, slice) else getattr(value, "__name__", type(value).__name__)
    )
