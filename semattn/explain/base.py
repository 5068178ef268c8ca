"""Base classes of all methods, and the registry `explainers`.

The base class implements `attribute`. A method overrides `relevance` only, which computes one
number per patch from the attention record and the keypoint concentration.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, overload

import torch
from torch import Tensor, nn

from ..attention import AttentionRecord, RuleSettings
from ..attention.model_call import move_to_model
from ..attention.model_pass import collect_meanings, first_meaning
from ..attention.scope import nested_pass
from ..attention.sites import Layers, check_model
from ..attention.target import TargetLike
from ..density import DensityLike, Scene, concentration_of, densities, density_needs
from ..grid import PatchGrid
from ..images import ImageLike, Images, Preprocessing, keypoint_channels_error, prepare
from ..keypoints import DetectorLike, Keypoints, completed, detect_async, detectors, no_keypoints
from ..utils.library_imports import Attribution, log_usage
from ..utils.provenance import about_model, versions
from ..utils.registry import Registry, unknown_name_message
from ..utils.validation import check_number
from .explanation import Explanation
from .manifest import with_manifest
from .notes import class_names_of, map_notes, readout_parts
from .refine import refinements
from .request import (
    AttributionRequest,
    ParsedCall,
    RelevanceMap,
    check_finite,
    name_channel_errors,
    parse_call,
    read_checked,
)

explainers: Registry[type[Explainer]] = Registry("explainer")
"""Name to a class that extends `Explainer`."""


class Explainer(Attribution):
    """Base class of attribution methods, with Captum's interface and a shorter one.

    ``Method().attribute(model, image)`` accepts an image in any form that `semattn.images.prepare`
    accepts; ``Method(model).attribute(inputs, target=…)`` has Captum's arguments. Both return the
    same map for the same image.

    Parameters
    ----------
    model : the model to explain; may be given to `attribute` instead
    density : name in `semattn.density.densities`, a function of a `Scene`, or weights, (P,) or
        (B, P)
    detector : name in `semattn.keypoints.detectors`, or a function of an image
    layers : "last-half", "all", layer numbers or a slice; None is the default of the method
    refine : "none", "guided" or "superpixels": interpolation from patches to pixels
    preprocessing : conversion of an image to a model input; None uses the model's own
    seed : seed of the densities that draw random numbers
    sites : names of the attention modules to use, or patterns of names such as "blocks.*"; None is
        every module with an attention call between patches of the image
    """

    name = "explainer"
    needs_gradient = True  # of the attention; False needs only the readout
    uses_keypoints = True  # whether the concentration p is computed
    class_specific = True  # whether the map depends on the target
    starts_at_readout = True  # whether the map starts at the tokens that the output is read from
    is_baseline = False  # whether it is a baseline that ignores the model
    default_layers: Layers = "last-half"
    gradient_rules: RuleSettings | None = None  # of the gradient of attention; None is plain
    uniform_note = "the map uses the model alone"  # end of the note for a uniform p

    def __init__(
        self,
        model: nn.Module | None = None,
        *,
        density: DensityLike = "count",
        detector: DetectorLike = "sift",
        layers: Layers = None,
        refine: str = "none",
        preprocessing: Preprocessing | None = None,
        seed: int = 0,
        sites: Sequence[str] | None = None,
        **unknown: Any,
    ) -> None:
        if unknown:
            raise TypeError(
                unknown_name_message(
                    f"option of {self.name}", min(unknown), _option_names(type(self))
                )
            )
        super().__init__(model)
        if not isinstance(density, Tensor):
            densities.resolve(density)
        detectors.resolve(detector)
        refinements.resolve(refine)
        check_number("seed", seed, minimum=0, maximum=2**63 - 1, integer=True)
        self.density = density
        self.detector = detector
        self.layers = self.default_layers if layers is None else layers
        self.refine = refine
        self.preprocessing = preprocessing
        self.seed = seed
        self.sites = None if sites is None else tuple(sites)

    def relevance(self, record: AttentionRecord, p: Tensor) -> Tensor:
        """Compute the relevance of each patch, (B, P), for the concentration `p` (B, P)."""
        raise NotImplementedError

    def notes(self, record: AttentionRecord) -> tuple[str, ...]:  # noqa: ARG002 — for subclasses
        """Return sentences that a reader of the map must know about the method."""
        return ()

    def maps(self, request: AttributionRequest) -> RelevanceMap:
        """Compute the maps of a request; the default records once and calls `relevance`."""
        record = request.record(layers=self.layers, grad=self.needs_gradient or "last")
        return self.from_patches(request, record, lambda p: self.relevance(record, p))

    def from_patches(
        self,
        request: AttributionRequest,
        record: AttentionRecord,
        relevance: Callable[[Tensor], Tensor],
        grid: PatchGrid | None = None,
    ) -> RelevanceMap:
        """Compute the maps from a function `relevance` of p (B, P) that returns (B, P).

        `grid` is the grid of the relevance; None is that of the record.
        """
        grid = grid or record.grid
        logits = record.prediction.logits
        with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
            p = self.concentration_on_grid(request, grid)  # float64, so on the CPU
            precision = torch.promote_types(logits.dtype, torch.float32)
            patches = relevance(p.to(precision).to(logits.device))
            heat_map = grid.upsample(patches)
            if self.refine != "none":
                check_finite(("model output", logits), ("map", patches))
                heat_map = refinements.resolve(self.refine)(heat_map, request.images.pixels, grid)
        return RelevanceMap(
            record.prediction,
            grid,
            p,
            patches,
            heat_map,
            record_notes=record.notes,
            readout=readout_parts(record) if self.starts_at_readout else None,
            notes=self.notes(record),
        )

    def parameters(self) -> dict[str, Any]:
        """Return the settings of this explainer, ready for JSON."""
        return {
            "density": _option_name(self.density),
            "detector": _option_name(self.detector),
            "layers": str(self.layers) if isinstance(self.layers, slice) else self.layers,
            "refine": self.refine,
            "seed": self.seed,
            "sites": None if self.sites is None else list(self.sites),
        }

    @overload
    def attribute(
        self,
        model: nn.Module,
        image: ImageLike,
        /,
        *,
        target: TargetLike = None,
        additional_forward_args: Any = None,
    ) -> Tensor: ...

    @overload
    def attribute(
        self,
        inputs: tuple[Tensor],
        target: TargetLike = None,
        *,
        additional_forward_args: Any = None,
    ) -> tuple[Tensor]: ...

    @overload
    def attribute(
        self, inputs: ImageLike, target: TargetLike = None, *, additional_forward_args: Any = None
    ) -> Tensor: ...

    @log_usage()
    def attribute(
        self,
        *args: Any,
        inputs: Any = None,
        target: TargetLike = None,
        additional_forward_args: Any = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """Compute the attribution map of each image.

        Call it as ``attribute(model, image)`` or, if the explainer was created with a model, as
        Captum's ``attribute(inputs, target=…)``.

        Parameters
        ----------
        args : ``(model, image)``, ``(inputs,)`` or ``(inputs, target)``; inputs is (B, C, H, W),
            (C, H, W), or a tuple of one such tensor
        inputs : the inputs by keyword, as in Captum
        target : class number, one per image, a tuple of indices, …, as in Captum; or a class name,
            or a list of names, one per image, if the model has class names. None explains the
            predicted class, the predicted answer of a single logit, the value of a regression,
            or the direction of the features of a model without a classifier
        additional_forward_args : arguments of the model after the images

        Returns
        -------
        Tensor
            (B, C, H, W), or a tuple of it if the input is a tuple. Every channel holds the map
            divided by C, so that the sum over channels, which Captum displays, is the map.

        Raises
        ------
        UnsupportedModelError, TargetError, ShapeError, ImageError
            With a message of one line; the model is restored.

        Examples
        --------
        >>> import timm
        >>> from semattn import SIFTPatchInterrelation
        >>> vit = timm.create_model("test_vit", img_size=64)
        >>> x = torch.rand(1, 3, 64, 64, generator=torch.manual_seed(0))
        >>> SIFTPatchInterrelation(vit).attribute(x, target=3).shape
        torch.Size([1, 3, 64, 64])
        """
        call = self._parse_call(args, inputs, target)
        explanation = self._explain(call, additional_forward_args)
        attribution = explanation.attribution
        if attribution is None:
            channels = explanation.images.inputs.shape[1]
            attribution = explanation.heat_map[:, None].expand(-1, channels, -1, -1) / channels
        return (attribution,) if call.is_tuple else attribution

    @overload
    def patch_map(
        self,
        model: nn.Module,
        image: ImageLike,
        /,
        *,
        target: TargetLike = None,
        additional_forward_args: Any = None,
    ) -> Tensor: ...

    @overload
    def patch_map(
        self, inputs: ImageLike, target: TargetLike = None, *, additional_forward_args: Any = None
    ) -> Tensor: ...

    def patch_map(
        self,
        *args: Any,
        inputs: Any = None,
        target: TargetLike = None,
        additional_forward_args: Any = None,
    ) -> Tensor:
        """Compute the map on patches, (B, h, w); arguments as for `attribute`."""
        call = self._parse_call(args, inputs, target)
        return self._explain(call, additional_forward_args).patch_map

    @overload
    def explain(
        self,
        model: nn.Module,
        image: ImageLike,
        /,
        *,
        target: TargetLike = None,
        additional_forward_args: Any = None,
        manifest: dict[str, Any] | None = None,
        keypoints: list[Keypoints] | None = None,
        map_only: bool = False,
    ) -> Explanation: ...

    @overload
    def explain(
        self,
        inputs: ImageLike,
        target: TargetLike = None,
        *,
        additional_forward_args: Any = None,
        manifest: dict[str, Any] | None = None,
        keypoints: list[Keypoints] | None = None,
        map_only: bool = False,
    ) -> Explanation: ...

    def explain(
        self,
        *args: Any,
        inputs: Any = None,
        target: TargetLike = None,
        additional_forward_args: Any = None,
        manifest: dict[str, Any] | None = None,
        keypoints: list[Keypoints] | None = None,
        map_only: bool = False,
    ) -> Explanation:
        """Compute the map with its context: image, keypoints, manifest; see `attribute`.

        `manifest` is the manifest of an earlier batch of the same model, which avoids hashing the
        weights again. `keypoints` are the keypoints of each image, if already detected, with
        descriptors if the density needs them. `map_only` leaves out what the map does not need,
        as `attribute` does: the manifest, and the keypoints of a method that does not use them.
        """
        call = self._parse_call(args, inputs, target)
        explanation = self._explain(
            call, additional_forward_args, all_keypoints=not map_only, keypoints=keypoints
        )
        if map_only:
            return explanation
        manifest = manifest or about_model(call.model) | {
            "method": self.name,
            "parameters": self.parameters(),
            "versions": versions(),
        }
        return with_manifest(explanation, manifest, self.preprocessing is not None)

    def _parse_call(self, args: tuple[Any, ...], inputs: Any, target: TargetLike) -> ParsedCall:
        return parse_call(args, inputs, target, self.forward_func, type(self).__name__)

    def _explain(
        self,
        call: ParsedCall,
        extra: Any,
        *,
        all_keypoints: bool = False,
        keypoints: list[Keypoints] | None = None,
    ) -> Explanation:
        """Prepare the images, detect keypoints while the model runs, and compute the map.

        `all_keypoints` detects keypoints for methods that do not use them, too.
        """
        model = check_model(call.model, compiled=True)
        images = prepare(
            call.images,
            self.preprocessing or (lambda: Preprocessing.of(model, needed_by=type(self).__name__)),
            any_channels=True,
        )
        if keypoints is None:
            pending = self._start_keypoints(images, all_keypoints)
        else:
            pending = completed(keypoints)
        request = AttributionRequest(
            model=model,
            inputs=move_to_model(model, images.inputs, prepared=images.prepared),
            target=call.target,
            extra=extra,
            images=images,
            pending_keypoints=pending,
            sites=self.sites,
            readout="score" if self.class_specific else "output",
            gradient_rules=self.gradient_rules,
        )
        try:
            with nested_pass(), collect_meanings(), name_channel_errors(images):
                maps = self.maps(request)
                output = first_meaning(model)
        finally:
            image_keypoints = request.keypoints()  # waits for the detection threads
        host_values = read_checked(maps)
        if all_keypoints and not image_keypoints:
            image_keypoints = [no_keypoints(images.pixels.shape[1:3])] * len(images.pixels)
        classes, class_note = class_names_of(call.model, maps.prediction.logits, output)
        return Explanation(
            heat_map=maps.heat_map,
            patch_map=maps.grid.fold(maps.patches),
            images=images,
            keypoints=image_keypoints,
            concentration=maps.concentration,
            grid=maps.grid,
            logits=maps.prediction.logits,
            target=maps.prediction.target,
            classes=classes,
            notes=map_notes(self, maps, images, host_values, (output.note, class_note)),
            target_description=maps.prediction.target_description,
            attribution=maps.attribution,
            output=output,
            conservation=maps.conservation,
        )

    def _start_keypoints(
        self, images: Images, all_keypoints: bool
    ) -> Future[list[Keypoints]] | None:
        """Start the keypoint detection in other threads, to run it in parallel with the model."""
        needs = () if isinstance(self.density, Tensor) else density_needs(self.density)
        uses_keypoints = bool(needs) and self.uses_keypoints
        if images.pixels_are_mean:
            if uses_keypoints:
                raise keypoint_channels_error(
                    images.inputs.shape[1],
                    'set density="uniform", which needs no keypoints, or call '
                    "explain(…, keypoints=detect(pictures))",
                )
            return None
        if not all_keypoints and not uses_keypoints:
            return None
        return detect_async(images.pixels, self.detector, descriptors="descriptors" in needs)

    def concentration_on_grid(self, request: AttributionRequest, grid: PatchGrid) -> Tensor:
        """Return the concentration p (B, P) on `grid`; uniform if the method does not use it."""
        if not self.uses_keypoints and not request.pending_keypoints:
            uniform = torch.tensor(1 / grid.patches, dtype=torch.float64, device="cpu")
            return uniform.expand(len(request.inputs), grid.patches)
        scene = Scene(request.images.pixels, request.keypoints(), grid, self.seed)
        return concentration_of(self.density, scene)


def _option_names(method: type[Explainer]) -> set[str]:
    """Return the names of all options of a method and its base classes."""
    return {
        name
        for cls in method.__mro__
        if issubclass(cls, Explainer) and "__init__" in vars(cls)
        for name, parameter in inspect.signature(cls.__init__).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def _option_name(option: Any) -> str:
    if isinstance(option, str):
        return option
    if isinstance(option, Tensor):
        return f"given weights {tuple(option.shape)}"
    return getattr(option, "__name__", type(option).__name__)
