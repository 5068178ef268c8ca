"""Page to try a model: a picture, its heat map, keypoints and classes. Gradio is imported lazily.

The page is served on this machine only. Nothing is loaded from or sent to the network: usage
statistics are off, there is no public link, and the browser loads from this server alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageDraw
from torch import nn

from ..attention.output_meaning import declared_classes
from ..errors import MissingPackageError, SemattnError
from ..explain import Explanation, explainers
from ..images import Preprocessing, prepare
from ..keypoints import Keypoints
from ..prompting import AttentionPrompter
from ..utils.class_names import class_names
from ..viz import Picture, overlay
from ..viz.texts import headline, selection_text

PREDICTED = -1  # number of the choice "the predicted class"
SHARPNESS = 640  # pixels of the longer side of a drawn picture
TOP = 5  # listed classes
MAX_STRENGTH = 4.0  # of prompting
SECONDS_KEPT = 600  # of an uploaded picture
METHOD = "sift-patch-interrelation"
# Sources of the page: this server, and what the page itself makes.
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"

Answer: TypeAlias = "tuple[Picture | None, dict[str, float] | str, str]"


def explain_picture(
    model: nn.Module,
    picture: Image.Image | None,
    method: str = METHOD,
    target: int = PREDICTED,
    show_keypoints: bool = True,
    strength: float = 0.0,
) -> Answer:
    """Return what the page shows for a picture.

    Parameters
    ----------
    model : the model to explain
    picture : the uploaded picture; None before an upload
    method : name in `semattn.explain.explainers`
    target : class to explain, or `PREDICTED`
    show_keypoints : whether keypoints are drawn as circles of their size
    strength : strength of prompting to keypoint-dense patches; 0 is the model itself

    Returns
    -------
    The picture with the heat map, (H, W, 3) uint8; the most probable classes with their
    probabilities, or a text for an output without any; and the notes as text.
    """
    if picture is None:
        return None, "", ""
    explainer = explainers.resolve(method)()
    # At strength 0 the prompter does nothing. The manifest saves hashing the weights.
    with AttentionPrompter(model, strength=strength).steer():
        explanation = explainer.explain(
            model,
            picture,
            target=None if target == PREDICTED else target,
            manifest={"method": method},
        )
    view = prepare(picture, Preprocessing.of(model).enlarged(SHARPNESS)).pixels[0]
    figure = overlay(explanation, backdrop=view)
    if show_keypoints:
        figure = _with_keypoints(figure, explanation.keypoints[0])
    answer = f"**{headline(explanation, 0)}**, {selection_text(explanation, 0)}."
    count = f"{len(explanation.keypoints[0])} keypoints."
    return figure, _classes(explanation), "\n\n".join([answer, count, *explanation.notes])


def _classes(explanation: Explanation) -> dict[str, float] | str:
    output = explanation.output
    probabilities = output.probabilities(explanation.logits.cpu()) if output.in_percent else None
    if probabilities is None:
        return headline(explanation, 0)
    best = probabilities[0].topk(min(TOP, probabilities.shape[1]))
    # Numbers make equal names of several classes different.
    names = [explanation.answer_label(answer) for answer in best.indices.tolist()]
    numbered = [
        f"{name} (#{answer})" if names.count(name) > 1 else name
        for name, answer in zip(names, best.indices.tolist(), strict=True)
    ]
    return dict(zip(numbered, best.values.tolist(), strict=True))


def _with_keypoints(picture: Picture, keypoints: Keypoints) -> Picture:
    """Return a picture with a circle for each keypoint, in its size."""
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    scale = picture.shape[0] / keypoints.image_size[0]
    for (x, y), size in zip(keypoints.xy.tolist(), keypoints.size.tolist(), strict=True):
        x, y, radius = (x + 0.5) * scale, (y + 0.5) * scale, max(2.0, size * scale / 2)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline="white")
    return np.asarray(canvas)


def _choices(model: nn.Module) -> list[tuple[str, int]]:
    """Return the classes to choose from, by name and number."""
    count, names = declared_classes(model), class_names(model)
    labels = [f"class {number}" for number in range(count or 0)] if names is None else names
    return [("the predicted class", PREDICTED), *zip(labels, range(len(labels)), strict=True)]


def build_demo(model: nn.Module, examples: list[str] | None = None) -> Any:
    """Return the page as `gradio.Blocks`.

    Parameters
    ----------
    model : the model to explain
    examples : paths of pictures to choose from

    Raises
    ------
    MissingPackageError
        If Gradio is not installed.
    """
    gradio = check_gradio()

    def run(*inputs: Any) -> Answer:
        try:
            return explain_picture(model, *inputs)
        except (SemattnError, ValueError) as error:
            raise gradio.Error(str(error)) from error

    with gradio.Blocks(
        title="semattn", analytics_enabled=False, delete_cache=(SECONDS_KEPT, SECONDS_KEPT)
    ) as page:
        gradio.Markdown(
            "# semattn\nWhich patches of a picture support the decision of a vision transformer?"
        )
        with gradio.Row():
            with gradio.Column():
                picture = gradio.Image(type="pil", label="picture", sources=["upload", "clipboard"])
                target = gradio.Dropdown(_choices(model), value=PREDICTED, label="explained class")
                method = gradio.Dropdown(sorted(explainers), value=METHOD, label="method")
                keypoints = gradio.Checkbox(True, label="show keypoints")
                strength = gradio.Slider(
                    0, MAX_STRENGTH, 0, step=0.5, label="prompting",
                    info="bias of the attention towards patches with keypoints; 0: none",
                )  # fmt: skip
            with gradio.Column():
                heat_map = gradio.Image(
                    label="evidence for the explained class", format="png",
                    buttons=["download", "fullscreen"],  # without that of sharing
                )  # fmt: skip
                classes = gradio.Label(label="output of the model", num_top_classes=TOP)
                notes = gradio.Markdown()
        inputs = [picture, method, target, keypoints, strength]
        outputs = [heat_map, classes, notes]
        if examples:
            gradio.Examples([[path] for path in examples], [picture])
        gradio.on([part.change for part in inputs], run, inputs, outputs, api_name="explain")
    return page


def serve_demo(page: Any, *, port: int | None = None) -> tuple[str, Callable[[], None]]:
    """Serve a page on this machine; return its address, and the function that stops it.

    Parameters
    ----------
    page : result of `build_demo`
    port : port; None takes the first free one from 7860

    Raises
    ------
    OSError
        If the port is not free.
    """
    from starlette.middleware import Middleware

    gradio = check_gradio()
    plain = gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    _, address, _ = page.launch(
        server_name="127.0.0.1",
        server_port=port,
        share=False,
        inbrowser=False,
        prevent_thread_lock=True,
        quiet=True,
        ssr_mode=False,
        theme=plain,
        footer_links=[],
        app_kwargs={"middleware": [Middleware(_OwnSources)]},
    )
    return address, partial(page.close, verbose=False)


class _OwnSources:
    """Adds the policy that the browser loads nothing from other servers."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                header = (b"content-security-policy", POLICY.encode())
                message = {**message, "headers": [*message.get("headers", ()), header]}
            await send(message)

        await self.app(scope, receive, send_with_policy)


def check_gradio() -> Any:
    """Return the module gradio, with its usage statistics off.

    Raises
    ------
    MissingPackageError
        If it is not installed.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio
    except ImportError as error:
        raise MissingPackageError(
            "demo: expected gradio, which serves the page, got none — pip install 'semattn[demo]'"
        ) from error
    return gradio
