"""Strength chosen on validation images, by the stated rule, and a test that is opened once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from semattn import AttentionPrompter
from semattn.errors import SemattnError
from semattn.prompting import calibrate
from tests import models


def loader(count: int = 2, seed: int = 0, groups: bool = True, labels: bool = True):
    """Batches of three images."""
    made = []
    for number in range(count):
        x = models.images(3, seed=10 * seed + number + 3)
        y = torch.tensor([0, 1, 2])
        made.append((x, y, ["a", "b", "b"]) if groups else (x, y) if labels else x)
    return made


class Telling(nn.Module):
    """Says a class that depends on how strongly it is prompted: by its first attention's mass."""

    def __init__(self, table: dict[float, list[int]]) -> None:
        super().__init__()
        self.vit = models.build("class-token")
        self.table = table
        self.now = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.vit(x)
        said = torch.tensor((self.table[round(self.now, 3)] * len(x))[: len(x)])
        return nn.functional.one_hot(said, 4).double() * 3


class Stepping(AttentionPrompter):
    """Tells its model the strength, so that the path is known beforehand."""

    def at(self, strength, layers):
        return Stepping(self.model, strength=strength, layers=layers, density="count")

    def steer(self, weights=None, *, away=False):
        self.model.now = float(self.strength)
        return super().steer(weights, away=away)


TABLE = {0.0: [0, 0, 0], 0.5: [3, 1, 2], 1.0: [0, 1, 0], 2.0: [0, 1, 1]}


@pytest.mark.parametrize(
    ("rule", "given", "strength"),
    [
        ("auto", {}, 1.0),  # worst group: 0, 0, .5, .5, and ties go to the weaker
        ("accuracy", {}, 0.5),  # 1/3, 2/3, 2/3, 2/3
        ("auto", {"groups": False}, 0.5),
        ("entropy", {"groups": False, "labels": False}, 0.0),  # all are as sure: the weakest
    ],
)
def test_the_rule_chooses(rule, given, strength):
    prompter = Stepping(Telling(TABLE), density="count", layers=[0, 1])
    made = prompter.calibrate(loader(**given), strengths=(0.5, 1.0, 2.0), rule=rule)
    assert made.strength == prompter.strength == strength
    assert made.layers == prompter.layers == [0, 1]
    assert [step.strength for step in made.path] == [0.0, 0.5, 1.0, 2.0]
    assert made.images == 6
    if not given:
        assert [step.worst_group for step in made.path] == [0.0, 0.0, 0.5, 0.5]
        assert made.path[1].groups == {"a": 0.0, "b": 1.0}
        assert [round(step.agreement, 3) for step in made.path] == [1.0, 0.0, 0.667, 0.333]


def test_steps_are_what_the_prompted_model_says():
    model = models.build("registers")
    prompter = AttentionPrompter(model, density="interrelation")
    data = loader(1)
    made = calibrate(prompter, data, strengths=(0.7,), layers=["last-third", [0]], rule="entropy")
    assert [(step.strength, step.layers) for step in made.path] == [
        (0.0, "last-third"), (0.7, "last-third"), (0.7, [0]),
    ]  # fmt: skip
    for step in made.path:
        with torch.no_grad():
            logits = prompter.at(step.strength, step.layers)(data[0][0])
        chance = logits.softmax(1)
        two = chance.topk(2).values
        assert step.entropy == pytest.approx(float(-(chance * chance.log()).sum(1).mean()), 1e-4)
        assert step.margin == pytest.approx(float((two[:, 0] - two[:, 1]).mean()), 1e-4)
        right = (logits.argmax(1) == data[0][1]).float()
        assert step.accuracy == pytest.approx(float(right.mean()))


def test_predictions_that_stray_are_not_chosen_without_labels():
    table = {0.0: [0, 0, 0], 0.5: [3, 1, 2], 1.0: [0, 0, 0]}
    prompter = Stepping(Telling(table), density="count")
    made = prompter.calibrate(
        loader(groups=False, labels=False), strengths=(0.5, 1.0), rule="margin", agreement=0.9
    )
    assert made.strength == 0.0


def test_splits_are_kept_apart():
    prompter = AttentionPrompter(models.build("class-token"), density="count")
    validation, test = loader(2, seed=1), loader(2, seed=2)
    made = prompter.calibrate(validation, strengths=(0.5,))
    found = prompter.evaluate(test)
    assert found.images == 6 and found.digest != made.digest
    assert found.plain.strength == 0 and found.prompted.strength == prompter.strength
    with pytest.raises(ValueError, match="loader: expected new test images, got 3 images"):
        prompter.evaluate(test)
    assert prompter.evaluate(test, again=True).as_dict() == found.as_dict()
    with pytest.raises(ValueError, match="loader: expected new validation images, got 3 images"):
        prompter.calibrate(test)
    with pytest.raises(ValueError, match="loader: expected new test images, got 3 images"):
        prompter.evaluate(validation)


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        ([], {}, "loader: expected images, got none"),
        (loader(groups=False), {"rule": "worst-group"}, "rule: expected groups in the loader"),
        (loader(groups=False, labels=False), {"rule": "accuracy"}, "rule: expected labels"),
        (loader(), {"rule": "best"}, "rule: unknown name 'best'"),
        ([(torch.ones(3, 2),)], {}, "loader: expected batches of images"),
        (
            [(models.images(3), torch.tensor([1, 2]))],
            {},
            "labels: expected one class number for each of 3 images",
        ),
    ],
)
def test_wrong_data_are_one_clear_line(data, options, words):
    prompter = AttentionPrompter(models.build("class-token"), density="count")
    with pytest.raises(ValueError, match=words) as error:
        prompter.calibrate(data, strengths=(0.5,), **options)
    assert "\n" not in str(error.value) and prompter.strength == 0.5


def test_batches_of_other_kinds():
    prompter = AttentionPrompter(models.build("class-token"), density="count")
    x, y, groups = loader(1)[0]
    mapped = prompter.calibrate(
        [{"pixel_values": x, "labels": y, "groups": groups}], strengths=(0.5,)
    )
    listed = prompter.at(0.5, prompter.layers).calibrate(
        [(x, y, torch.tensor([0, 1, 1]))], strengths=(0.5,)
    )
    assert mapped.digest == listed.digest and mapped.strength == listed.strength
    assert set(listed.path[0].groups) == {"0", "1"}


class _Head(nn.Module):
    """A model whose output is computed from that of a ViT with `outputs` outputs."""

    def __init__(self, change, outputs: int = 1) -> None:
        super().__init__()
        self.vit = models.build("class-token")
        self.vit.head = nn.Linear(16, outputs)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.vit(x))


def _centred(model: _Head, x: Tensor) -> _Head:
    """The model with a bias at which it answers both ways."""
    with torch.no_grad():
        model.vit.head.bias -= model.vit(x).median(dim=0).values - 1e-3
    return model


@pytest.mark.parametrize(
    "change",
    [lambda one: one, lambda one: one[:, 0], torch.sigmoid, lambda one: one.sigmoid()[:, 0]],
    ids=["logit (B, 1)", "logit (B,)", "probability (B, 1)", "probability (B,)"],
)
@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_a_binary_model_that_is_always_right(change, shape):
    x = models.images(4)
    model = _centred(_Head(change), x)
    labels = (model.vit(x)[:, 0] > 0).long()
    assert set(labels.tolist()) == {0, 1}
    data = [(x, labels.view(shape), ["a", "a", "b", "b"])]
    prompter = AttentionPrompter(model, density="count")
    step = prompter.calibrate(data, strengths=[0.0]).path[0]
    assert step.accuracy == step.worst_group == 1.0
    p = model.vit(x)[:, 0].double().sigmoid().detach()
    entropy = -(p * p.log() + (1 - p) * (1 - p).log()).mean()
    assert step.entropy == pytest.approx(float(entropy), rel=1e-5)
    assert step.margin == pytest.approx(float((2 * p - 1).abs().mean()), rel=1e-5)
    other = [(models.images(4, seed=9), labels)]
    expected = ((model.vit(other[0][0])[:, 0] > 0).long() == labels).double().mean()
    made = AttentionPrompter(model, density="count", strength=0.0).evaluate(other)
    assert made.plain.accuracy == made.prompted.accuracy == float(expected)
    wrong = [(models.images(4, seed=5), 1 - (model.vit(models.images(4, seed=5))[:, 0] > 0).long())]
    assert AttentionPrompter(model).evaluate(wrong).plain.accuracy == 0.0


def test_probabilities_are_not_put_through_softmax_again():
    x = models.images(4)
    model = _Head(lambda one: one.softmax(1), outputs=5)
    chance = model(x).double().detach()
    step = AttentionPrompter(model).calibrate([x], strengths=[0.0]).path[0]
    entropy = torch.special.entr(chance).sum(1).mean()
    two = chance.topk(2, dim=1).values
    assert step.entropy == pytest.approx(float(entropy), rel=1e-5)
    assert step.margin == pytest.approx(float((two[:, 0] - two[:, 1]).mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.tensor([0.0, 1.0, 2.0]), "labels: expected integers, got torch.float32"),
        (torch.tensor([0, 1, 5]), "labels: expected class numbers from 0 to 4, got 5"),
        (torch.eye(3, 5).long(), "labels: .*got shape .3, 5. — give class numbers, not one-hot"),
        (["cat", "dog", "owl"], "labels: expected integers"),
    ],
)
def test_labels_are_checked_at_the_door(labels, words):
    x = models.images(3)
    for call in (AttentionPrompter.calibrate, AttentionPrompter.evaluate):
        with pytest.raises(SemattnError, match=words) as error:
            call(AttentionPrompter(models.build("class-token")), [(x, labels)])
        assert "\n" not in str(error.value)


def test_features_and_regressions_are_not_calibrated():
    x = models.images(3)
    features = models.build("class-token")
    features.head = nn.Identity()
    regression = _Head(lambda one: one)
    regression.problem_type = "regression"
    for model in (features, regression):
        with pytest.raises(SemattnError, match="expected class scores .*calibrate a class"):
            AttentionPrompter(model).calibrate([x], strengths=[0.0])
