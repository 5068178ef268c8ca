"""Tests of calibration on validation images and of the evaluation on a test split."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from semattn import AttentionPrompter
from semattn.errors import SemattnError
from semattn.prompting import calibrate
from tests import models


def loader(count: int = 2, seed: int = 0, groups: bool = True, labels: bool = True):
    """Return batches of three images."""
    batches = []
    for number in range(count):
        x = models.images(3, seed=10 * seed + number + 3)
        y = torch.tensor([0, 1, 2])
        batches.append((x, y, ["a", "b", "b"]) if groups else (x, y) if labels else x)
    return batches


class StrengthDependentModel(nn.Module):
    """Model whose predicted classes are given by a table of prompt strengths."""

    def __init__(self, table: dict[float, list[int]]) -> None:
        super().__init__()
        self.vit = models.build("class-token")
        self.table = table
        self.now = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.vit(x)
        classes = torch.tensor((self.table[round(self.now, 3)] * len(x))[: len(x)])
        return nn.functional.one_hot(classes, 4).double() * 3


class StrengthReportingPrompter(AttentionPrompter):
    """Prompter that passes its strength to its model, so that the results are known."""

    def at(self, strength, layers):
        return StrengthReportingPrompter(
            self.model, strength=strength, layers=layers, density="count"
        )

    def steer(self, weights=None, *, suppress=False):
        self.model.now = float(self.strength)
        return super().steer(weights, suppress=suppress)


TABLE = {0.0: [0, 0, 0], 0.5: [3, 1, 2], 1.0: [0, 1, 0], 2.0: [0, 1, 1]}


@pytest.mark.parametrize(
    ("rule", "loader_options", "strength"),
    [
        ("auto", {}, 1.0),  # worst group: 0, 0, .5, .5; ties go to the weaker prompt
        ("accuracy", {}, 0.5),  # 1/3, 2/3, 2/3, 2/3
        ("auto", {"groups": False}, 0.5),
        ("entropy", {"groups": False, "labels": False}, 0.0),  # equal entropies: the weakest
    ],
)
def test_the_rule_selects_the_strength(rule, loader_options, strength):
    prompter = StrengthReportingPrompter(
        StrengthDependentModel(TABLE), density="count", layers=[0, 1]
    )
    calibration = prompter.calibrate(loader(**loader_options), strengths=(0.5, 1.0, 2.0), rule=rule)
    assert calibration.strength == prompter.strength == strength
    assert calibration.layers == prompter.layers == [0, 1]
    assert [step.strength for step in calibration.path] == [0.0, 0.5, 1.0, 2.0]
    assert calibration.images == 6
    if not loader_options:
        assert [step.worst_group for step in calibration.path] == [0.0, 0.0, 0.5, 0.5]
        assert calibration.path[1].groups == {"a": 0.0, "b": 1.0}
        assert [round(step.agreement, 3) for step in calibration.path] == [1.0, 0.0, 0.667, 0.333]


def test_steps_have_the_metrics_of_the_prompted_model():
    model = models.build("registers")
    prompter = AttentionPrompter(model, density="interrelation")
    data = loader(1)
    calibration = calibrate(
        prompter, data, strengths=(0.7,), layers=["last-third", [0]], rule="entropy"
    )
    assert [(step.strength, step.layers) for step in calibration.path] == [
        (0.0, "last-third"), (0.7, "last-third"), (0.7, [0]),
    ]  # fmt: skip
    for step in calibration.path:
        with torch.no_grad():
            logits = prompter.at(step.strength, step.layers)(data[0][0])
        probabilities = logits.softmax(1)
        top_two = probabilities.topk(2).values
        assert step.entropy == pytest.approx(
            float(-(probabilities * probabilities.log()).sum(1).mean()), 1e-4
        )
        assert step.margin == pytest.approx(float((top_two[:, 0] - top_two[:, 1]).mean()), 1e-4)
        correct = (logits.argmax(1) == data[0][1]).float()
        assert step.accuracy == pytest.approx(float(correct.mean()))


def test_without_labels_the_agreement_limits_the_selection():
    table = {0.0: [0, 0, 0], 0.5: [3, 1, 2], 1.0: [0, 0, 0]}
    prompter = StrengthReportingPrompter(StrengthDependentModel(table), density="count")
    calibration = prompter.calibrate(
        loader(groups=False, labels=False), strengths=(0.5, 1.0), rule="margin", agreement=0.9
    )
    assert calibration.strength == 0.0


def test_splits_must_be_disjoint():
    prompter = AttentionPrompter(models.build("class-token"), density="count")
    validation, test = loader(2, seed=1), loader(2, seed=2)
    calibration = prompter.calibrate(validation, strengths=(0.5,))
    evaluation = prompter.evaluate(test)
    assert evaluation.images == 6 and evaluation.digest != calibration.digest
    assert evaluation.plain.strength == 0 and evaluation.prompted.strength == prompter.strength
    with pytest.raises(ValueError, match="loader: expected new test images, got 3 images"):
        prompter.evaluate(test)
    assert prompter.evaluate(test, allow_repeat=True).as_dict() == evaluation.as_dict()
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
def test_invalid_data_are_refused_in_one_line(data, options, words):
    prompter = AttentionPrompter(models.build("class-token"), density="count")
    with pytest.raises(ValueError, match=words) as error:
        prompter.calibrate(data, strengths=(0.5,), **options)
    assert "\n" not in str(error.value) and prompter.strength == 0.5


def test_batches_as_mappings_and_tuples():
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
    """Model whose output is a function of the output of a ViT with `outputs` outputs."""

    def __init__(self, change, outputs: int = 1) -> None:
        super().__init__()
        self.vit = models.build("class-token")
        self.vit.head = nn.Linear(16, outputs)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.vit(x))


def _center_bias(model: _Head, x: Tensor) -> _Head:
    """Set the bias of the model so that it predicts both classes."""
    with torch.no_grad():
        model.vit.head.bias -= model.vit(x).median(dim=0).values - 1e-3
    return model


@pytest.mark.parametrize(
    "change",
    [
        lambda logits: logits,
        lambda logits: logits[:, 0],
        torch.sigmoid,
        lambda logits: logits.sigmoid()[:, 0],
    ],
    ids=["logit (B, 1)", "logit (B,)", "probability (B, 1)", "probability (B,)"],
)
@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_a_binary_model_that_is_always_right(change, shape):
    x = models.images(4)
    model = _center_bias(_Head(change), x)
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
    evaluation = AttentionPrompter(model, density="count", strength=0.0).evaluate(other)
    assert evaluation.plain.accuracy == evaluation.prompted.accuracy == float(expected)
    wrong = [(models.images(4, seed=5), 1 - (model.vit(models.images(4, seed=5))[:, 0] > 0).long())]
    assert AttentionPrompter(model).evaluate(wrong).plain.accuracy == 0.0


def test_softmax_is_not_applied_to_probabilities():
    x = models.images(4)
    model = _Head(lambda logits: logits.softmax(1), outputs=5)
    probabilities = model(x).double().detach()
    step = AttentionPrompter(model).calibrate([x], strengths=[0.0]).path[0]
    entropy = torch.special.entr(probabilities).sum(1).mean()
    top_two = probabilities.topk(2, dim=1).values
    assert step.entropy == pytest.approx(float(entropy), rel=1e-5)
    assert step.margin == pytest.approx(float((top_two[:, 0] - top_two[:, 1]).mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.tensor([0.0, 1.0, 2.0]), "labels: expected integers, got torch.float32"),
        (torch.tensor([0, 1, 5]), "labels: expected class numbers from 0 to 4, got 5"),
        (torch.eye(3, 5).long(), "labels: .*got shape .3, 5. — give class numbers, not one-hot"),
        (["cat", "dog", "owl"], "labels: expected integers"),
    ],
)
def test_labels_are_checked(labels, words):
    x = models.images(3)
    for call in (AttentionPrompter.calibrate, AttentionPrompter.evaluate):
        with pytest.raises(SemattnError, match=words) as error:
            call(AttentionPrompter(models.build("class-token")), [(x, labels)])
        assert "\n" not in str(error.value)


def test_feature_and_regression_models_are_refused():
    x = models.images(3)
    features = models.build("class-token")
    features.head = nn.Identity()
    regression = _Head(lambda output: output)
    regression.problem_type = "regression"
    for model in (features, regression):
        with pytest.raises(SemattnError, match="expected class scores .*calibrate a class"):
            AttentionPrompter(model).calibrate([x], strengths=[0.0])
