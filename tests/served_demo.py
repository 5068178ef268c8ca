"""Serve the page of `semattn demo` by the real Gradio, call it, and check its answers.

`python -m tests.served_demo FOLDER` prints "served" if all is well.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from semattn import Preprocessing
from semattn.integrations.gradio_demo import POLICY, build_demo, explain_picture, serve_demo
from tests.models import SIZE, build, images

NAMES = ("ant", "bee", "ant", "dog", "eel")


def demo_model() -> nn.Module:
    """A tiny classifier with names of its classes, two of them equal."""
    model = build("class-token")
    model.classes = NAMES
    model.preprocessing = Preprocessing(SIZE, (0.5,) * 3, (0.5,) * 3)
    return model


def demo_picture() -> Image.Image:
    """A picture of another size than the input of the model."""
    levels = (images(1)[0] * 255).permute(1, 2, 0).to(torch.uint8).numpy()
    return Image.fromarray(levels).resize((160, 120))


def check_page(folder: Path) -> None:
    """Fail if the page, its answers or its errors are not as they must be."""
    import httpx
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    model, picture = demo_model(), demo_picture()
    page = build_demo(model)
    assert page.analytics_enabled is False
    parts = {part["props"].get("label"): part["props"] for part in page.config["components"]}
    choices = [("the predicted class", -1), *((name, k) for k, name in enumerate(NAMES))]
    assert parts["explained class"]["choices"] == choices
    assert ("grad-cam", "grad-cam") in parts["method"]["choices"]
    assert "share" not in parts["evidence for the explained class"]["buttons"]
    picture.save(folder / "photo.png")
    photo = handle_file(folder / "photo.png")
    address, close = serve_demo(page)
    try:
        assert address.startswith("http://127.0.0.1:") and page.share_url is None
        answer = httpx.get(address)
        assert answer.headers["content-security-policy"] == POLICY
        assert "fonts.googleapis.com" not in answer.text
        client = Client(address, verbose=False, download_files=str(folder))
        shown, classes, notes = client.predict(photo, "legrad", 3, True, 0, api_name="/explain")
        drawn, expected, text = explain_picture(model, picture, "legrad", 3)
        assert np.array_equal(np.asarray(Image.open(shown).convert("RGB")), drawn)
        confidences = {one["label"]: one["confidence"] for one in classes["confidences"]}
        assert confidences == expected and notes == text
        model.head, model.num_classes, model.classes = nn.Linear(16, 2), 2, NAMES[:2]
        with pytest.raises(AppError, match=r"^target: expected"):  # a class that it does not have
            client.predict(photo, "legrad", 3, True, 0, api_name="/explain")
        with pytest.raises(OSError, match="port"):  # two pages at one port
            serve_demo(build_demo(model), port=page.server_port)
    finally:
        close()


if __name__ == "__main__":
    check_page(Path(sys.argv[1]))
    print("served")  # noqa: T201 — read by the test
