"""What every explainer has in common: from a model and a picture to a map of the picture.

`attribute` is written here, once. A method overrides `relevance` alone; it is handed what the
model's attention did and where the keypoints lie, and answers with one number a patch.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..attention import AttentionRecord
from ..attention.model_inputs import move_to_model
from ..attention.output_watch import decided_meaning, noted_meanings
from ..attention.scope import nested
from ..attention.sites import Layers, refuse
from ..attention.target import Target
from ..density import Scene, concentration, densities
from ..errors import ShapeError
from ..grid import PatchGrid
from ..images import Images, Preprocessing, keypoint_channels_error, prepare
from ..keypoints import Keypoints, detectors, no_keypoints, ready, start
from ..targets import OutputMeaning
from ..utils.captum_library import Attribution, log_usage
from ..utils.class_names import check_names, class_names
from ..utils.provenance import about_model, unconfirmed, versions
from ..utils.registry import Registry, choices
from ..utils.validation import check_number
from .attribution_request import Maps, Run, check_finite
from .explanation import Explanation
from .notes import notes_of
from .refine import refinements

explainers = Registry("explainer")
"""Name to a class that extends `Explainer`."""


class Explainer(Attribution):
    """An attribution method in Captum's form, and in semattn's own.

    ``Method().attribute(model, image)`` takes a picture in any form that `semattn.images.prepare`
    does; ``Method(model).attribute(inputs, target=…)`` takes what Captum takes. For the same
    picture both give the same map.

    Parameters
    ----------
    model : the model to explain; may be given to `attribute` instead
    density : name in `semattn.density.densities`, a function of a `Scene`, or weights, (P,) or
        (B, P)
    detector : name in `semattn.keypoints.detectors`, or a function of an image
    layers : "last-half", "all", layer numbers or a slice; None is the method's own choice
    refine : "none", "guided" or "superpixels": how patches become pixels
    preprocessing : how a picture becomes the model's input; None reads the model's own
    seed : of those densities that draw at random
    sites : names of the modules that count as attention, or patterns of names such as "blocks.*";
        None is every module that makes an attention call between patches of the image
    """

    name = "explainer"
    needs_gradient = True  # of each attention; else it is enough to know where the answer is read
    uses_keypoints = True  # through the concentration p; else p is not computed
    class_specific = True  # whether the map depends on the target
    uses_readout = True  # whether it begins with the tokens that the answer is read from
    control = False  # whether it is one to compare with, which owes nothing to the model
    usual_layers: Layers = "last-half"
    without_keypoints = "it is the model's alone"  # what the map is, where p is uniform

    def __init__(
        self,
        model: nn.Module | None = None,
        *,
        density: Any = "count",
        detector: Any = "sift",
        layers: Layers = None,
        refine: str = "none",
        preprocessing: Preprocessing | None = None,
        seed: int = 0,
        sites: Sequence[str] | None = None,
        **unknown: Any,
    ) -> None:
        if unknown:
            raise TypeError(choices(f"option of {self.name}", min(unknown), _options(type(self))))
        super().__init__(model)
        if not isinstance(density, Tensor):
            densities.ensure(density)
        detectors.ensure(detector)
        refinements.ensure(refine)
        check_number("seed", seed, least=0, most=2**63 - 1, whole=True)
        self.density = density
        self.detector = detector
        self.layers = self.usual_layers if layers is None else layers
        self.refine = refine
        self.preprocessing = preprocessing
        self.seed = seed
        self.sites = None if sites is None else tuple(sites)

    def relevance(self, taken: AttentionRecord, p: Tensor) -> Tensor:
        """How much each patch counts, (B, P), given the concentration `p` (B, P)."""
        raise NotImplementedError

    def maps(self, run: Run) -> Maps:
        """From one run to its maps: by way of `relevance`, if a method has no other way."""
        taken = run.record(layers=self.layers, grad=self.needs_gradient or "last")
        return self.from_patches(run, taken, lambda p: self.relevance(taken, p))

    def from_patches(
        self, run: Run, taken: AttentionRecord, relevance: Callable[[Tensor], Tensor]
    ) -> Maps:
        """The maps of one number a patch: `relevance` makes it (B, P) from p (B, P)."""
        with torch.no_grad(), torch.autocast(taken.logits.device.type, enabled=False):
            p = self.concentrate(run, taken.grid)  # float64, which some devices do not have
            exact = torch.promote_types(taken.logits.dtype, torch.float32)
            patches = relevance(p.to(exact).to(taken.logits.device))
            check_finite("map", patches)
            heat = refinements.ensure(self.refine)(patches, run.images.pixels, taken.grid)
        return Maps(taken, p, patches, heat)

    def parameters(self) -> dict[str, Any]:
        """What this explainer was set to, ready for JSON."""
        return {
            "density": _named(self.density),
            "detector": _named(self.detector),
            "layers": str(self.layers) if isinstance(self.layers, slice) else self.layers,
            "refine": self.refine,
            "seed": self.seed,
            "sites": None if self.sites is None else list(self.sites),
        }

    @log_usage()
    def attribute(
        self,
        *args: Any,
        inputs: Any = None,
        target: Target = None,
        additional_forward_args: Any = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """The attribution map of each image.

        Called as ``attribute(model, image)`` or, when the explainer was made with a model, as
        Captum's ``attribute(inputs, target=…)``.

        Parameters
        ----------
        args : ``(model, image)``, ``(inputs,)`` or ``(inputs, target)``; inputs is (B, C, H, W),
            (C, H, W), or a tuple that holds one such tensor
        inputs : the same by keyword, as Captum names it
        target : class number, one an image, a tuple of indices, …, as Captum's; None explains
            the predicted class; of one logit the predicted answer, of a regression the value, of
            a model without a classifier the direction of its features
        additional_forward_args : passed on to the model after the images

        Returns
        -------
        Tensor (B, C, H, W), or a tuple of one where a tuple came in. Every channel holds the map
        divided by C, so that the sum over channels, which Captum's pictures show, is the map.

        Raises
        ------
        UnsupportedModelError, TargetError, ShapeError, ImageError
            Each in one line; the model is as it was.

        Examples
        --------
        >>> import timm
        >>> from semattn import SIFTPatchInterrelation
        >>> vit = timm.create_model("test_vit", img_size=64)
        >>> x = torch.rand(1, 3, 64, 64, generator=torch.manual_seed(0))
        >>> SIFTPatchInterrelation(vit).attribute(x, target=3).shape
        torch.Size([1, 3, 64, 64])
        """
        model, source, target = self._read(args, inputs, target)
        made = self._make(model, _only(source), target, additional_forward_args, draw=False)
        heat = made.attribution
        if heat is None:
            channels = made.images.inputs.shape[1]
            heat = made.heat[:, None].expand(-1, channels, -1, -1) / channels
        return (heat,) if isinstance(source, tuple) else heat

    def patch_map(
        self,
        *args: Any,
        inputs: Any = None,
        target: Target = None,
        additional_forward_args: Any = None,
    ) -> Tensor:
        """As `attribute`, but one number a patch: (B, h, w)."""
        model, source, target = self._read(args, inputs, target)
        return self._make(
            model, _only(source), target, additional_forward_args, draw=False
        ).patch_map

    def explain(
        self,
        *args: Any,
        inputs: Any = None,
        target: Target = None,
        additional_forward_args: Any = None,
        manifest: dict[str, Any] | None = None,
        keypoints: list[Keypoints] | None = None,
    ) -> Explanation:
        """As `attribute`, with all that the map was made from: picture, keypoints, manifest.

        `manifest` is that of an earlier batch of the same model, whose weights are not read anew;
        `keypoints` are those of each image, where they are known already, with descriptors if the
        density looks at them.
        """
        model, source, target = self._read(args, inputs, target)
        made = self._make(
            model, _only(source), target, additional_forward_args, draw=True, keypoints=keypoints
        )
        manifest = manifest or about_model(model) | {
            "method": self.name,
            "parameters": self.parameters(),
            "versions": versions(),
        }
        notes = made.notes
        if reason := unconfirmed(manifest):
            notes = (*notes, f"{reason[:1].upper()}{reason[1:]}.")
        return dataclasses.replace(made, manifest=manifest, notes=notes)

    def _read(
        self, args: tuple[Any, ...], inputs: Any, target: Target
    ) -> tuple[nn.Module, Any, Target]:
        rest = list(args)
        own_form = rest and callable(rest[0]) and not isinstance(rest[0], Tensor)
        model = rest.pop(0) if own_form else self.forward_func
        if model is None:
            raise TypeError(
                "attribute: expected a model, got none — call attribute(model, image), "
                f"or {type(self).__name__}(model).attribute(inputs)"
            )
        if inputs is not None:
            rest.append(inputs)
        elif len(rest) == 2 and target is None:
            target = rest.pop()
        if len(rest) != 1:
            raise TypeError(
                f"attribute: expected one image or batch, got {len(rest)} arguments — "
                "call attribute(model, image) or attribute(inputs, target=…)"
            )
        return model, rest[0], target

    def _make(
        self,
        model: nn.Module,
        source: Any,
        target: Target,
        extra: Any,
        *,
        draw: bool,
        keypoints: list[Keypoints] | None = None,
    ) -> Explanation:
        module = refuse(model, compiled=True)
        wanted = self.preprocessing or (lambda: Preprocessing.of(module))
        images = prepare(source, wanted, any_channels=True)
        found = self._find_keypoints(images, draw) if keypoints is None else ready(keypoints)
        inputs = move_to_model(module, images.inputs, prepared=images.prepared)
        run = Run(
            module,
            inputs,
            target,
            extra,
            images,
            found,
            self.sites,
            "score" if self.class_specific else "output",
        )
        try:
            with nested(), noted_meanings(), _channels_named(images):
                maps = self.maps(run)
                output = decided_meaning(module)
        finally:
            run.keypoints()  # no thread is left behind
        taken, points = maps.taken, run.keypoints()
        check_finite("map", maps.heat)
        if draw and not points:
            points = [no_keypoints(images.pixels.shape[1:3])] * len(images.pixels)
        names, name_note = _fitting_names(model, taken.logits, output)
        return Explanation(
            heat=maps.heat,
            patch_map=taken.grid.fold(maps.patches),
            images=images,
            keypoints=points,
            concentration=maps.concentration,
            grid=taken.grid,
            logits=taken.logits,
            target=taken.target,
            classes=names,
            notes=notes_of(self, maps, images, (output.note, name_note)),
            explains=taken.explains,
            attribution=maps.attribution,
            output=output,
        )

    def _find_keypoints(self, images: Images, draw: bool) -> Future[list[Keypoints]] | None:
        """SIFT, begun in other threads, so that it runs while the model does."""
        needs = () if isinstance(self.density, Tensor) else _needs(self.density)
        uses_them = bool(needs) and self.uses_keypoints
        if images.pixels_are_mean:
            if uses_them:
                raise keypoint_channels_error(
                    images.inputs.shape[1],
                    'set density="uniform", which needs none, or call '
                    "explain(…, keypoints=detect(pictures))",
                )
            return None
        if not draw and not uses_them:
            return None
        return start(images.pixels, self.detector, descriptors="descriptors" in needs)

    def concentrate(self, run: Run, grid: PatchGrid) -> Tensor:
        """The concentration p (B, P) of the density on `grid`; uniform where none is used."""
        if not self.uses_keypoints and not run.found:
            even = torch.tensor(1 / grid.patches, dtype=torch.float64, device="cpu")
            return even.expand(len(run.inputs), grid.patches)
        scene = Scene(run.images.pixels, run.keypoints(), grid, self.seed)
        if not isinstance(self.density, Tensor):
            return concentration(densities.ensure(self.density)(scene))
        if self.density.ndim not in (1, 2):
            raise ShapeError(
                f"density: expected weights (P,) or (B, P), got {tuple(self.density.shape)}"
            )
        given = self.density.detach().cpu().double().reshape(-1, self.density.shape[-1])
        scene.grid.check(given, "density")
        if len(given) not in (1, len(scene.pixels)):
            raise ShapeError(
                f"density: expected ({len(scene.pixels)}, {scene.grid.patches}) weights for "
                f"{len(scene.pixels)} images, got {tuple(self.density.shape)}"
            )
        return concentration(given.expand(len(scene.pixels), -1))


def _options(method: type[Explainer]) -> set[str]:
    """The names of all options that a method takes, by its own and those it hands on."""
    return {
        name
        for one in method.__mro__
        if issubclass(one, Explainer) and "__init__" in vars(one)
        for name, parameter in inspect.signature(one.__init__).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


@contextmanager
def _channels_named(images: Images) -> Iterator[None]:
    """Raise ShapeError where the model refuses inputs that are neither grey nor colour."""
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        if not images.pixels_are_mean or "channels" not in reason:
            raise
        raise ShapeError(
            f"inputs: expected the channels that the model takes, got {images.inputs.shape[1]} "
            f"({reason[:160]}) — give images as it was trained"
        ) from error


def _fitting_names(
    model: nn.Module, logits: Tensor, output: OutputMeaning
) -> tuple[tuple[str, ...] | None, str]:
    """The class names of the outputs, and a note where the model's config names others.

    Raises
    ------
    SemattnError
        Where `model.classes` has another number of names than the model has outputs.
    """
    names = class_names(model)
    if names is None or logits.ndim > 2 or not output.has_answers:
        return names, ""
    outputs = 1 if logits.ndim == 1 else logits.shape[1]
    if getattr(model, "classes", None) is not None:
        check_names(names, outputs, binary=output.is_binary(outputs))
    elif len(names) != outputs and not (output.is_binary(outputs) and len(names) == 2):
        return None, (
            f"Classes are shown by number: the model's config names {len(names)}, "
            f"its head has {outputs} outputs."
        )
    return names, ""


def _only(source: Any) -> Any:
    """What a tuple of inputs holds; more than one image tensor has no meaning here."""
    if not isinstance(source, tuple):
        return source
    if len(source) != 1:
        raise TypeError(
            f"inputs: expected one tensor of images, got a tuple of {len(source)} — "
            "pass the others as additional_forward_args"
        )
    return source[0]


def _needs(density: Any) -> frozenset[str]:
    return frozenset(getattr(densities.ensure(density), "needs", ("keypoints",)))


def _named(choice: Any) -> str:
    if isinstance(choice, str):
        return choice
    if isinstance(choice, Tensor):
        return f"given weights {tuple(choice.shape)}"
    return getattr(choice, "__name__", type(choice).__name__)
