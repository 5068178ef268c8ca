"""Evaluation of cues of both kinds, patch kinds and recurring marks, in the planted searches."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch

from benchmarks.studies.spurious import loop
from benchmarks.studies.spurious.search import cue_scores
from semattn.prompting import CLIP, AttentionPrompter, suppression_bias
from semattn.prompting.bias import HIDING_CLIP
from semattn.spurious.marks.cue import MarkCue
from tests import discoveries

PATCHES = torch.tensor([0.0, 1.0] * 8)  # of 16


def test_a_kind_of_patches_is_scored_by_its_detector_and_a_mark_by_its_places(monkeypatch):
    inputs = torch.zeros(2, 3, 64, 64)
    values = np.random.default_rng(0).normal(size=(2, 16, 8)).astype(np.float32)
    cue, mark = discoveries.cue(), discoveries.mark_cue()
    np.testing.assert_array_equal(cue_scores(cue, values, inputs), cue.detector(values))
    monkeypatch.setattr(MarkCue, "matches", lambda _, inputs: PATCHES.expand(len(inputs), 16))
    np.testing.assert_array_equal(cue_scores(mark, values, inputs), PATCHES.expand(2, 16))


@pytest.mark.parametrize(("clip", "layers"), [(CLIP, loop.LAYERS), (HIDING_CLIP, "all")])
def test_a_cue_is_suppressed_and_a_mark_is_hidden_in_all_layers(clip, layers, monkeypatch):
    torch.manual_seed(0)
    model = timm.create_model("test_vit", img_size=64, num_classes=100).eval()
    inputs = torch.randn(40, 3, 64, 64)
    prompter = AttentionPrompter(model, strength=1.0, layers=layers, clip=clip)
    with torch.inference_mode(), prompter.steer(PATCHES.expand(40, 16), suppress=True):
        expected = model(inputs).argmax(-1).numpy()
    monkeypatch.setattr(loop, "normalise", lambda _, images: images)
    images = SimpleNamespace(inputs=inputs, labels=expected)
    cue = SimpleNamespace(bias=lambda x: suppression_bias(PATCHES.expand(len(x), 16), CLIP))
    if layers == "all":
        cue.hidden = lambda x: PATCHES.bool().expand(len(x), 16)
    assert loop.correct_predictions(model, images, cue).all()
    assert not loop.correct_predictions(model, images).all()
    assert not loop.correct_predictions(model, images, 1 - PATCHES.expand(40, 16)).all()
