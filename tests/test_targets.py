"""The meaning of outputs: the kind of each model, and the right value in every consumer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from semattn import AttentionPrompter, SIFTPatchInterrelation, compare, explainers, record
from semattn.attention.model_pass import current_watch, watch_output
from semattn.attention.output_meaning import predict, read_output
from semattn.audit.tables import NONE, explanation_rows
from semattn.cli.image_writers import explanation_summary, predicted_classes
from semattn.cli.parsing import read_target
from semattn.errors import LabelError, SemattnError, TargetError, UnsupportedModelError
from semattn.prompting.strength_sweep import strength_sweep
from semattn.targets import OutputKind, OutputMeaning
from semattn.utils.validation import check_labels
from semattn.viz import texts
from tests.models import build, images, state_of

Kind = OutputKind
METHOD = "raw-attention"


class Wrapped(nn.Module):
    """A model whose output is computed from that of another one."""

    def __init__(self, change: Callable[[Tensor], Any], trunk: nn.Module | None = None) -> None:
        super().__init__()
        self.trunk = trunk or build("class-token")
        self.change = change

    def forward(self, inputs: Tensor) -> Any:
        return self.change(self.trunk(inputs))


class FeaturesAndLogits(nn.Module):
    """A trunk without a classifier, and a head; `arrange` orders what is returned."""

    def __init__(self, arrange: Callable[..., Any], *, heads: int = 1) -> None:
        super().__init__()
        self.trunk = headless()
        torch.manual_seed(3)
        self.heads_ = nn.ModuleList(nn.Linear(16, 5) for _ in range(heads))
        self.arrange = arrange

    def forward(self, inputs: Tensor) -> Any:
        features = self.trunk(inputs)
        return self.arrange(features, *(head(features) for head in self.heads_))


class Cosine(nn.Module):
    """A classifier of 16 classes that is no nn.Linear and states nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(16, 16))

    def forward(self, features: Tensor) -> Tensor:
        return 9 * nn.functional.normalize(features) @ nn.functional.normalize(self.weight).T


class Projected(nn.Module):
    """An image tower that ends in a projection, as CLIP's."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = headless()
        self.visual_projection = nn.Linear(16, 8, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.visual_projection(self.trunk(inputs))


class TwoHeads(nn.Module):
    """The mean of two classifiers with one logit each; it lies between 0 and 1 by chance."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = headless()
        self.one, self.other = nn.Linear(16, 1), nn.Linear(16, 1)
        for head, bias in ((self.one, 3.0), (self.other, -2.0)):
            nn.init.zeros_(head.weight)
            nn.init.constant_(head.bias, bias)

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.trunk(inputs)
        return (self.one(features) + self.other(features)) / 2


def with_head(head: nn.Module, name: str = "class-token", **stated: Any) -> nn.Module:
    model = build(name)
    torch.manual_seed(2)
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    model.head = head
    for attribute, value in stated.items():
        setattr(model, attribute, value)
    return model


def headless(name: str = "class-token") -> nn.Module:
    model = build(name)
    model.reset_classifier(0)
    return model


def answering(values: list[float]) -> nn.Module:
    """A model with one logit, which is about each of `values` on the first images."""
    model = with_head(nn.Linear(16, 1))
    with torch.no_grad():
        model.head.weight.zero_()
    model.head.bias.data.fill_(values[0])
    return model


def transformers_model(**config: Any) -> nn.Module:
    import transformers

    torch.manual_seed(0)
    vit_config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        image_size=64, patch_size=16, **config,
    )  # fmt: skip
    return transformers.ViTForImageClassification(vit_config).eval()


# Name: how to make the model, and the kind of its output.
MODELS: dict[str, tuple[Callable[[], nn.Module], Kind]] = {
    "classes": (lambda: build("class-token"), Kind.CLASS_LOGITS),
    "replaced head": (lambda: with_head(nn.Linear(16, 7)), Kind.CLASS_LOGITS),
    "head put on a model without": (
        lambda: _head_on(headless(), nn.Linear(16, 7)), Kind.CLASS_LOGITS,
    ),
    "scaled logits": (lambda: Wrapped(lambda logits: 3 * logits), Kind.CLASS_LOGITS),
    "ends in log_softmax": (lambda: Wrapped(lambda x: x.log_softmax(1)), Kind.CLASS_LOGITS),
    "one logit": (lambda: with_head(nn.Linear(16, 1)), Kind.ONE_LOGIT),
    "one logit (B,)": (
        lambda: Wrapped(lambda x: x[:, 0], with_head(nn.Linear(16, 1))), Kind.ONE_LOGIT,
    ),
    "multi-label": (
        lambda: with_head(nn.Linear(16, 4), problem_type="multi_label_classification"),
        Kind.MULTI_LABEL_LOGITS,
    ),
    "regression": (lambda: with_head(nn.Linear(16, 1), problem_type="regression"), Kind.REGRESSION),
    "ends in softmax": (lambda: Wrapped(lambda x: x.softmax(1)), Kind.PROBABILITIES),
    "ends in nn.Softmax": (
        lambda: with_head(nn.Sequential(nn.Linear(16, 5), nn.Softmax(1))), Kind.PROBABILITIES,
    ),
    "ends in sigmoid": (lambda: Wrapped(torch.sigmoid), Kind.INDEPENDENT_PROBABILITIES),
    "ends in nn.Sigmoid": (
        lambda: with_head(nn.Sequential(nn.Linear(16, 5), nn.Sigmoid())),
        Kind.INDEPENDENT_PROBABILITIES,
    ),
    "a home-made linear layer": (lambda: with_head(Cosine()), Kind.CLASS_LOGITS),
    "an activation behind the head": (
        lambda: with_head(nn.Sequential(nn.Linear(16, 7), nn.Tanh())), Kind.CLASS_LOGITS,
    ),
    "a scaled activation behind the head": (
        lambda: Wrapped(lambda x: x * 2, with_head(nn.Sequential(nn.Linear(16, 5), nn.ReLU()))),
        Kind.CLASS_LOGITS,
    ),
    "a projection without bias": (lambda: Projected(), Kind.FEATURES),
    "mean of two heads": (lambda: TwoHeads(), Kind.ONE_LOGIT),
    "a probability of the other class": (
        lambda: Wrapped(lambda x: torch.sigmoid(-x / 2), with_head(nn.Linear(16, 1))),
        Kind.INDEPENDENT_PROBABILITIES,
    ),
    "one probability": (
        lambda: Wrapped(torch.sigmoid, with_head(nn.Linear(16, 1))),
        Kind.INDEPENDENT_PROBABILITIES,
    ),
    "head is Identity": (lambda: with_head(nn.Identity()), Kind.FEATURES),
    "head is Identity, mean of patches": (lambda: with_head(nn.Identity(), "gap"), Kind.FEATURES),
    "head is Identity, attention pool": (
        lambda: with_head(nn.Identity(), "attention-pool"), Kind.FEATURES,
    ),
    "num_classes=0": (headless, Kind.FEATURES),
    "num_classes=0 in a wrapper": (lambda: Wrapped(lambda x: x, headless()), Kind.FEATURES),
    "num_classes=0 in a wrapper, attention pool": (
        lambda: Wrapped(lambda x: x, headless("attention-pool")), Kind.FEATURES,
    ),
    "(features, logits)": (
        lambda: FeaturesAndLogits(lambda features, logits: (features, logits)), Kind.CLASS_LOGITS,
    ),
    "(logits, features)": (
        lambda: FeaturesAndLogits(lambda features, logits: (logits, features)), Kind.CLASS_LOGITS,
    ),
    "a dict of both": (
        lambda: FeaturesAndLogits(lambda features, logits: {"emb": features, "out": logits}),
        Kind.CLASS_LOGITS,
    ),
}  # fmt: skip


def _head_on(model: nn.Module, head: nn.Module) -> nn.Module:
    model.head = head
    return model


@pytest.mark.parametrize("name", MODELS)
def test_the_kind_of_each_model(name: str) -> None:
    make, kind = MODELS[name]
    model = make()
    before = state_of(model)
    explanation = explainers.resolve(METHOD)(model).explain(images())
    assert explanation.output.kind is kind
    assert state_of(model) == before
    logits, meaning = predict(model, images())
    assert meaning == explanation.output
    assert torch.equal(logits.detach(), explanation.logits)
    with torch.inference_mode():
        assert predict(model, images())[1] == meaning
    assert state_of(model) == before


def test_hubs_of_transformers_state_their_problem() -> None:
    x = torch.rand(2, 3, 64, 64, generator=torch.manual_seed(0))
    for config, kind in (
        ({"num_labels": 3}, Kind.CLASS_LOGITS),
        ({"num_labels": 3, "problem_type": "multi_label_classification"}, Kind.MULTI_LABEL_LOGITS),
        ({"num_labels": 1, "problem_type": "regression"}, Kind.REGRESSION),
        ({"num_labels": 3, "problem_type": "regression"}, Kind.REGRESSION),
        ({"num_labels": 1}, Kind.ONE_LOGIT),
    ):
        model = transformers_model(**config)
        assert predict(model, x)[1].kind is kind
        wrapped = Wrapped(lambda output: output.logits, model)
        assert predict(wrapped, x)[1].kind is kind


def test_small_logits_of_a_linear_head_are_no_probabilities() -> None:
    for outputs in (1, 5):
        model = with_head(nn.Linear(16, outputs))
        with torch.no_grad():
            model.head.weight.zero_()
            model.head.bias.fill_(1 / outputs)
        kind = predict(model, images())[1].kind
        assert kind is (Kind.ONE_LOGIT if outputs == 1 else Kind.CLASS_LOGITS)


def test_what_cannot_be_known_is_one_note() -> None:
    def notes(model: nn.Module) -> list[str]:
        explanation = explainers.resolve(METHOD)(model).explain(
            images(), target=lambda logits: logits[:, 0]
        )
        return [note for note in explanation.notes if not note.startswith("Explained, in place")]

    assert notes(build("class-token")) == notes(headless()) == []
    (note,) = notes(with_head(nn.Linear(16, 1)))
    assert note.startswith("The output is treated as the logit") and "the head has 1 output" in note
    (note,) = notes(with_head(nn.Identity()))
    assert "treated as features" in note
    (note,) = notes(with_head(nn.Linear(16, 7, bias=False)))
    assert "treated as the logits of 7 classes" in note and "problem_type" in note
    text = torch.randn(16, 7, generator=torch.manual_seed(0))
    (note,) = notes(Wrapped(lambda x: x @ text, headless()))
    assert "treated as the logits of 7 classes" in note
    (note,) = notes(Wrapped(lambda x: x.softmax(1)))
    assert "treated as probabilities" in note


def test_of_a_tuple_the_logits_are_explained() -> None:
    x = images()
    plain = FeaturesAndLogits(lambda features, logits: logits)
    expected = explainers.resolve("generic-relevance")(plain).explain(x)
    for arrange in (
        lambda features, logits: (features, logits),
        lambda features, logits: (logits, features),
        lambda features, logits: {"emb": features, "out": logits},
    ):
        explanation = explainers.resolve("generic-relevance")(FeaturesAndLogits(arrange)).explain(x)
        assert torch.equal(explanation.logits, expected.logits)
        assert torch.equal(explanation.target, expected.target)
        assert torch.equal(explanation.heat_map, expected.heat_map)


def test_two_readings_are_refused_unless_a_function_says_which() -> None:
    model = FeaturesAndLogits(lambda features, logits, other: (logits, 2 * other, other), heads=2)
    explainer = explainers.resolve(METHOD)(model)
    for target in (None, 1):
        with pytest.raises(UnsupportedModelError, match="expected one tensor of logits") as raised:
            explainer.explain(images(), target=target)
        assert "function of the output as target" in str(raised.value)
    assert explainer.explain(images(), target=lambda output: output[2][:, 0]).target is None
    with pytest.raises(UnsupportedModelError, match="expected one tensor of logits"):
        AttentionPrompter(model).calibrate([images()], strengths=[0.0])


# --- what target None explains ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["sift-patch-interrelation", "integrated-gradients", "legrad",
                                  "grad-cam", "transition-attention", "smooth-grad"])  # fmt: skip
def test_of_one_logit_the_predicted_answer_is_explained(name: str) -> None:
    model = with_head(nn.Linear(16, 1))
    x = images()
    options = {"nt_samples": 2} if name == "smooth-grad" else {}
    explainer = explainers.resolve(name)(model, **options)
    model.head.bias.data += 0.01 - predict(model, x)[0].min().detach()  # just positive
    positive, explicit = explainer.explain(x), explainer.explain(x, target=0)
    torch.testing.assert_close(positive.heat_map, explicit.heat_map)
    assert positive.predicted().tolist() == [1, 1]
    # The same features of the opposite sign: the answer is negative, its evidence is the same.
    with torch.no_grad():
        model.head.weight.neg_()
        model.head.bias.neg_()
    negative = explainer.explain(x)
    assert negative.predicted().tolist() == [0, 0]
    assert torch.equal(negative.logits, -positive.logits)
    torch.testing.assert_close(negative.heat_map, positive.heat_map)


def test_the_score_of_each_kind() -> None:
    x = images()
    binary = with_head(nn.Linear(16, 1))
    seen = record(binary, x).prediction
    assert torch.equal(seen.score, seen.logits[:, 0].abs()) and seen.target is None
    seen = record(binary, x, target=0).prediction
    assert torch.equal(seen.score, seen.logits[:, 0]) and seen.target.tolist() == [0, 0]
    seen = record(with_head(nn.Linear(16, 1), problem_type="regression"), x).prediction
    assert torch.equal(seen.score, seen.logits[:, 0]) and seen.target is None
    head = with_head(nn.Linear(16, 4), problem_type="multi_label_classification")
    seen = record(head, x).prediction
    assert torch.equal(seen.score, seen.logits.amax(1))
    seen = record(with_head(nn.Identity()), x).prediction
    torch.testing.assert_close(seen.score, seen.logits.norm(dim=1))
    with pytest.raises(TargetError, match="a regression has no predicted class"):
        record(with_head(nn.Linear(16, 4), problem_type="regression"), x)


# --- every consumer ---------------------------------------------------------------------------


def explain(name: str) -> Any:
    model = MODELS[name][0]()
    target = 0 if name == "regression" else None
    return SIFTPatchInterrelation(model).explain(images(), target=target)


@pytest.mark.parametrize("name", MODELS)
def test_every_page_shows_the_share_of_its_kind(name: str) -> None:
    explanation = explain(name)
    row = explanation.logits[0].double().reshape(-1)
    kind = explanation.output.kind
    text = f"{texts.headline(explanation, 0)} {texts.selection_text(explanation, 0)}"
    content = explanation_summary(explanation)
    audited = explanation_rows(explanation, [0, 1], [None, None])
    assert content["output"] == kind.value
    if kind in (Kind.FEATURES, Kind.REGRESSION):
        assert (
            "%" not in text
            and predicted_classes(explanation) == []
            and audited["predicted"].tolist() == [NONE] * 2
        )
        return
    best = int(explanation.predicted()[0])
    (first, *_rest) = predicted_classes(explanation, top=1)
    assert first["class"] == best == audited["predicted"][0]
    expected = {
        Kind.CLASS_LOGITS: lambda: row.softmax(0)[best],
        Kind.MULTI_LABEL_LOGITS: lambda: row[best].sigmoid(),
        Kind.PROBABILITIES: lambda: row[best],
        Kind.INDEPENDENT_PROBABILITIES: lambda: row[best] if len(row) > 1 else
        (row[0] if best else 1 - row[0]),
    }.get(kind)  # fmt: skip
    if expected is None:
        assert kind is Kind.ONE_LOGIT
        assert "%" not in text and f"logit {row[0]:.2f}" in text
        assert first["probability"] is None and first["value"] == float(row[0])
        assert math.isnan(audited["probability"][0])
        return
    assert first["probability"] == pytest.approx(float(expected()))
    assert audited["probability"][0] == pytest.approx(float(expected()))
    assert f"{100 * float(expected()):.1f} %" in text


def test_a_logit_of_minus_seven_is_not_positive() -> None:
    model = answering([-7.0])
    explanation = SIFTPatchInterrelation(model).explain(images(1))
    assert texts.selection_text(explanation, 0) == "predicted is negative, logit -7.00"
    model.classes = ["healthy", "ill"]
    explanation = SIFTPatchInterrelation(model).explain(images(1))
    assert texts.selection_text(explanation, 0) == "predicted is healthy, logit -7.00"
    explicit = SIFTPatchInterrelation(model).explain(images(1), target=0)
    assert texts.headline(explicit, 0) == "ill  logit -7.00"
    assert (
        texts.selection_text(explicit, 0) == "not the predicted class, which is healthy logit -7.00"
    )


@pytest.mark.parametrize("name", ["one logit", "one logit (B,)", "one probability", "multi-label",
                                  "ends in softmax", "(features, logits)"])  # fmt: skip
def test_prompting_steps_of_every_kind_with_answers(name: str) -> None:
    model = MODELS[name][0]()
    prompted = strength_sweep(
        SIFTPatchInterrelation(), AttentionPrompter(model), images(1), strengths=[1.0]
    )
    meaning = prompted.explanation.output
    assert prompted.predicted == meaning.predicted(prompted.logits).tolist()
    assert prompted.leading(1)[0] == prompted.predicted[0]
    assert torch.equal(prompted.probabilities, meaning.probabilities(prompted.logits))
    shares = prompted.share_texts(prompted.predicted[0])
    assert all(("%" in share) == meaning.in_percent for share in shares)


def test_prompting_steps_explain_the_named_answer() -> None:
    model, x = with_head(nn.Linear(16, 1), classes=("healthy", "ill")), images(1)
    explainer, prompter = SIFTPatchInterrelation(), AttentionPrompter(model)
    predicted = int(predict(model, x)[0] > 0)
    other = model.classes[1 - predicted]
    expected = explainer.explain(model, x, target=lambda output: (1 - 2 * predicted) * output[:, 0])
    assert not torch.equal(expected.patch_map, explainer.patch_map(model, x))
    swept = strength_sweep(explainer, prompter, x, target=other, strengths=[1e-4])
    assert torch.equal(swept.maps[0], expected.patch_map[0])
    torch.testing.assert_close(swept.maps[1], swept.maps[0], rtol=0.01, atol=1e-4)
    with pytest.raises(SemattnError, match="expected a class with a probability"):
        strength_sweep(explainer, prompter, x, explanation=expected)
    compared = compare(model, x, [explainer.name], target=other)
    assert torch.equal(compared.rows[0].explanation.patch_map, expected.patch_map)
    assert read_target(other, model) == other and read_target(None, model) is None
    with pytest.raises(TargetError, match="unknown class 'il' — did you mean 'ill'"):
        read_target("il", model)


@pytest.mark.parametrize("name", ["regression", "head is Identity"])
def test_prompting_steps_without_answers_are_refused(name: str) -> None:
    model = MODELS[name][0]()
    with pytest.raises(SemattnError, match="expected a class"):
        strength_sweep(
            SIFTPatchInterrelation(), AttentionPrompter(model), images(1), strengths=[1.0]
        )


def test_a_comparison_of_a_binary_model_has_no_other_class() -> None:
    compared = compare(with_head(nn.Linear(16, 1)), images(1), [METHOD, "center"])
    assert compared.other is None and all(row.sensitivity is None for row in compared.rows)


# --- the functions themselves -----------------------------------------------------------------

LOGITS = torch.tensor([[-7.0, 0.5, 2.0], [0.2, 0.1, -0.3]])


@pytest.mark.parametrize("kind", list(Kind))
def test_the_functions_of_a_kind_agree(kind: Kind) -> None:
    for outputs in (1, 3):
        meaning = OutputMeaning(kind)
        values = LOGITS[:, :outputs]
        if kind is Kind.PROBABILITIES:
            values = values.softmax(1)
        elif kind is Kind.INDEPENDENT_PROBABILITIES:
            values = values.sigmoid()
        if kind is Kind.ONE_LOGIT and outputs > 1:
            continue
        answers, shares = meaning.predicted(values), meaning.probabilities(values)
        assert (answers is None) == (shares is None) == (not meaning.has_answers)
        if answers is None:
            assert meaning.answers(outputs) == 0
            assert meaning.share_text(values[0], 0) == f"value {float(values[0, 0]):.2f}"
            with pytest.raises(ValueError, match="expected one with answers"):
                meaning.uncertainty(values)
            continue
        assert shares.shape == (2, meaning.answers(outputs))
        assert bool(((shares >= 0) & (shares <= 1)).all())
        assert torch.equal(shares.argmax(1), answers)
        odds = torch.stack([meaning.log_odds(values, torch.full((2,), answer))
                            for answer in range(shares.shape[1])], 1)  # fmt: skip
        if shares.shape[1] > 1:
            torch.testing.assert_close(odds.sigmoid().double(), shares, atol=1e-5, rtol=1e-4)
        entropy, margin = meaning.uncertainty(values)
        assert bool((entropy >= 0).all()) and bool((margin >= 0).all())
        for row, number in zip(values, answers.tolist(), strict=True):
            text = meaning.share_text(row, number)
            share = float(meaning.probabilities(row[None])[0, number])
            assert text == (f"{100 * share:.1f} %" if meaning.in_percent else f"logit {row[0]:.2f}")


def test_entropy_and_margin_by_hand() -> None:
    p = torch.tensor([0.9, 0.2], dtype=torch.float64)
    entropy = -(p * p.log() + (1 - p) * (1 - p).log())
    binary = OutputMeaning(Kind.ONE_LOGIT).uncertainty(p.logit()[:, None])
    torch.testing.assert_close(binary[0], entropy)
    torch.testing.assert_close(binary[1], (2 * p - 1).abs())
    uncertainty = OutputMeaning(Kind.MULTI_LABEL_LOGITS).uncertainty(p.logit()[None])
    torch.testing.assert_close(uncertainty[0], entropy.mean()[None])
    torch.testing.assert_close(uncertainty[1], (p[0] - p[1])[None])


def test_an_output_outside_of_a_pass_is_read_by_its_names() -> None:
    logits = torch.zeros(2, 3)
    assert read_output({"logits": logits})[1].part == "logits"
    assert read_output({"pooler_output": logits})[1].kind is Kind.FEATURES
    assert read_output(torch.zeros(2, 3, 4, 4))[1].kind is Kind.DENSE


def test_the_watch_sees_its_own_pass_alone() -> None:
    model = build("class-token")
    with watch_output(model) as outer:
        predict(build("gap"), images())
        assert not outer.calls
        other, meaning = predict(model, images())
        assert meaning.kind is Kind.CLASS_LOGITS and other.shape == (2, 5)


# --- labels -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [
        [2, 0], (2, 0), [[2], [0]], np.array([2, 0]), np.array([2, 0], np.uint8),
        torch.tensor([2, 0]), torch.tensor([2, 0], dtype=torch.int16), torch.tensor([[2], [0]]),
        [torch.tensor(2), torch.tensor(0)], [np.int64(2), 0], np.array([2, 0], dtype=object),
    ],
)  # fmt: skip
def test_labels_of_every_container(labels: Any) -> None:
    checked = check_labels(labels, 2, 3)
    assert checked.tolist() == [2, 0] and checked.dtype == torch.int64


def test_labels_of_pandas_and_booleans() -> None:
    pandas = pytest.importorskip("pandas")
    assert check_labels(pandas.Series([2, 0], index=[7, 9]), 2, 3).tolist() == [2, 0]
    assert check_labels(torch.tensor([True, False]), 2, 2).tolist() == [1, 0]
    with torch.inference_mode():
        labels = torch.tensor([1, 0])
    assert not check_labels(labels, 2, 2).is_inference()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([2.0, 0.0], "expected integers, got float64"),
        (torch.tensor([2.0, 0.0]), "expected integers, got torch.float32"),
        (["cat", "dog"], "expected integers"),
        ([None, 1], "expected integers"),
        ([[1], [0, 1]], "expected integers"),
        ([1], "for each of 2 images, .2,., got shape .1,."),
        (torch.eye(2, dtype=torch.int64), "got shape .2, 2. — give class numbers, not one-hot"),
        (1, "got shape .."),
        ([0, 3], "from 0 to 2, got 3"),
        ([-1, 0], "from 0 to 2, got -1"),
    ],
)
def test_labels_that_are_none_are_one_line(labels: Any, message: str) -> None:
    with pytest.raises(LabelError, match=f"labels: .*{message}") as raised:
        check_labels(labels, 2, 3)
    assert "\n" not in str(raised.value)


def test_watches_may_end_in_any_order() -> None:
    first, second = watch_output(build("gap")), watch_output(build("class-token"))
    outer = first.__enter__()
    inner = second.__enter__()
    assert current_watch() is inner
    first.__exit__(None, None, None)
    assert current_watch() is inner and not outer.open
    second.__exit__(None, None, None)
    assert current_watch() is None
