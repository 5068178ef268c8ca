"""Zero-shot classifiers: an image encoder, and a linear classifier of text embeddings.

CLIP and SigLIP compare an image with texts. For fixed texts this is a linear layer after the image
encoder, so the model is an ordinary classifier, and the text encoder is not part of it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UnsupportedModelError
from .specifications import ModelRequest


class ZeroShotClassifier(nn.Module):
    """Image encoder of a dual encoder, with the texts of the labels as the classifier.

    logits = scale <v / |v|, t> + bias, for the image embedding v and the unit embedding t of each
    text, as in the dual encoder.

    Parameters
    ----------
    image_encoder : returns embeddings (B, D)
    text_embeds : (K, D), one for each label
    scale, bias : of the logits; a bias means that the model was trained with a sigmoid, so that
        the labels are independent
    """

    def __init__(
        self, image_encoder: nn.Module, text_embeds: Tensor, scale: float, bias: float | None
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.num_classes = len(text_embeds)
        self.problem_type = (
            "single_label_classification" if bias is None else "multi_label_classification"
        )
        self.classifier = nn.Linear(text_embeds.shape[1], len(text_embeds), device="cpu")
        with torch.no_grad():
            self.classifier.weight.copy_(scale * F.normalize(text_embeds, dim=-1))
            self.classifier.bias.fill_(bias or 0.0)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the logits (B, K) of the labels."""
        logits: Tensor = self.classifier(F.normalize(self.image_encoder(pixel_values), dim=-1))
        return logits


def check_labels(request: ModelRequest) -> None:
    """Raise ValueError for a dual encoder without labels."""
    if not request.labels:
        raise ValueError(
            f"labels: expected the texts of the classes for {request.specification!r}, which "
            "compares images with texts, got none — give --labels 'a photo of a cat,a photo of a "
            "dog', or a file with one text per line"
        )


def check_logits(
    classifier: ZeroShotClassifier,
    reference: Callable[[Tensor], Tensor],
    size: tuple[int, int, int],
    name: str,
) -> None:
    """Raise UnsupportedModelError unless the logits are those of the dual encoder.

    Parameters
    ----------
    reference : returns the dual encoder's logits (B, K) for pixel values
    size : (C, H, W) of the pixel values
    name : class name of the dual encoder
    """
    generator = torch.Generator(device="cpu").manual_seed(0)
    pixel_values = torch.randn(2, *size, generator=generator, device="cpu")
    with torch.no_grad():
        expected, actual = reference(pixel_values), classifier.eval()(pixel_values)
    tolerance = 1e-3 * max(1.0, float(expected.abs().max()))
    if expected.shape != actual.shape or not torch.allclose(expected, actual, atol=tolerance):
        raise UnsupportedModelError(
            f"model: expected the logits of {name} from its image encoder and the texts, got "
            "others — explain its image encoder in Python, with a function of the output as target"
        )
