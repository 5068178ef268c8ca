"""The manifest of an explanation, and the digest of the weights."""

from __future__ import annotations

import copy
import json

import torch

from semattn import SIFTPatchInterrelation
from semattn.utils.provenance import versions, weights_digest
from tests.models import build, images


def test_digest_follows_the_weights() -> None:
    model = build("class-token")
    first = weights_digest(model)
    assert weights_digest(model) == first == weights_digest(copy.deepcopy(model))
    with torch.no_grad():
        model.head.bias[0] += 1
    changed = weights_digest(model)
    assert changed != first
    with torch.no_grad():
        model.head.bias[0] -= 1
    model.head.bias.data.add_(1)
    assert weights_digest(model) not in (first, changed)
    model.load_state_dict(build("class-token").state_dict())
    assert weights_digest(model) == first
    assert weights_digest(model.to(torch.bfloat16)) != first


def test_manifest_is_ready_for_json_and_names_what_a_repeat_needs() -> None:
    explanation = SIFTPatchInterrelation(layers=slice(1, None), density="size").explain(
        build("class-token"), images(), target=1
    )
    manifest = json.loads(json.dumps(explanation.manifest))
    assert manifest["method"] == "sift-patch-interrelation"
    assert manifest["parameters"]["density"] == "size"
    assert manifest["versions"]["torch"] == versions()["torch"]
    assert explanation.label(1) == "class 1" and len(explanation) == 2


def test_given_weights_are_named_not_listed() -> None:
    explainer = SIFTPatchInterrelation(density=torch.ones(12))
    assert explainer.parameters()["density"] == "given weights (12,)"
