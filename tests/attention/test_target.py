"""Targets: every form that Captum accepts, with the same scores, and one-line errors."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from captum._utils.common import _select_targets
from torch import Tensor, nn

from semattn import SIFTPatchInterrelation, explainers, record
from semattn.attention.target import output_tensor, score
from semattn.errors import SemattnError, TargetError, UnsupportedModelError
from tests.models import build, images

OUTPUT = torch.arange(12.0).reshape(3, 4)
DEEP = torch.arange(60.0).reshape(3, 4, 5)
PLAIN = nn.Identity()
NAMES = ("ant", "bee, wasp", "cat", "dog")


def named(*classes: str) -> nn.Module:
    model = nn.Identity()
    model.classes = classes
    return model


@pytest.mark.parametrize(
    ("output", "target", "classes"),
    [
        (OUTPUT, 2, [2, 2, 2]),
        (OUTPUT, (1,), [1, 1, 1]),
        (OUTPUT, torch.tensor(3), [3, 3, 3]),
        (OUTPUT, torch.tensor([3]), [3, 3, 3]),
        (OUTPUT, torch.tensor([0, 1, 3]), [0, 1, 3]),
        (OUTPUT, [0, 1, 3], [0, 1, 3]),
        (OUTPUT, [(0,), (1,), (3,)], [0, 1, 3]),
        (DEEP, (1, 4), None),
        (DEEP, [(0, 0), (3, 4), (1, 2)], None),
    ],
)
def test_every_kind_of_captum_target(output, target, classes) -> None:  # type: ignore[no-untyped-def]
    values, numbers, target_description = score(output, target, PLAIN)
    assert torch.equal(values, _select_targets(output, target))
    assert (None if numbers is None else numbers.tolist()) == classes
    assert target_description == ("" if classes else f"the output at {target!r}")


@pytest.mark.parametrize(
    ("target", "number"),
    [("cat", 2), ("WASP", 1), ("3", 3), ("#0", 0), (["ant", "wasp", "dog"], [0, 1, 3])],
)
def test_a_class_by_name_is_the_class_by_number(target, number) -> None:  # type: ignore[no-untyped-def]
    by_name, by_number = (score(OUTPUT, each, named(*NAMES)) for each in (target, number))
    assert torch.equal(by_name.values, by_number.values) and not by_name.target_description
    assert torch.equal(by_name.classes, by_number.classes)
    assert score(OUTPUT, "3", PLAIN).classes.tolist() == [3, 3, 3], "digits need no names"
    assert score(OUTPUT, "3", named("3", "4")).classes.tolist() == [3, 3, 3], "of other classes"


@pytest.mark.parametrize(
    ("output", "target", "names", "words"),
    [
        (OUTPUT, "dgo", NAMES, "unknown class 'dgo' — did you mean 'dog'"),
        (OUTPUT, ["ant", "ant", "dgo"], NAMES, "unknown class 'dgo' — did you mean 'dog'"),
        (OUTPUT, "cat", (), "got 'cat' — the model has no class names"),
        (OUTPUT, "cat", NAMES[1:], "class names: expected 4, .*, got 3"),
        (OUTPUT, ["cat", "dog"], NAMES, "expected 3 targets, one per image, got 2"),
        (OUTPUT, ["cat", 0, 1], NAMES, "expected a class number or name, .*, got 'cat'"),
        (DEEP, "cat", NAMES, "got 'cat' — the model returns .*, which has no class names"),
        (OUTPUT[:, :1], "cat", (), "got 'cat' — the model has no class names"),
        (OUTPUT[:, :1], "cat", NAMES, "class names: expected 1, .*, got 4"),
        (OUTPUT[:, :1], "cat", ("healthy", "ill"), "unknown class 'cat'"),
        (OUTPUT[:, :1], "1", ("healthy", "ill"), "expected a class number from 0 to 0, got 1"),
        (OUTPUT[:, :1], ["ill"], ("healthy", "ill"), "expected 3 targets, .*, got 1"),
    ],
)
def test_names_that_are_no_class_raise_one_line(output, target, names, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SemattnError, match=words) as raised:
        score(output, target, named(*names))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("names", [("not ill", "ill"), ("ill",)])
@pytest.mark.parametrize("axes", [1, 2])
def test_an_answer_of_one_logit_by_name_has_its_sign(names: tuple[str, ...], axes: int) -> None:
    logits = torch.tensor([2.0, -1.0])
    output = logits if axes == 1 else logits[:, None]

    def values(target: str | list[str]) -> tuple[list[float], str]:
        result = score(output, target, named(*names))
        return result.values.tolist(), result.target_description

    towards = "the model's one logit, towards "
    assert values("ill") == ([2, -1], "" if axes == 2 else f"{towards}ill")
    assert values("not ill") == ([-2, 1], f"{towards}not ill")
    assert values(["ill", "not ill"]) == ([2, 1], f"{towards}the predicted answer")
    assert values(["not ill", "ill"]) == ([-2, -1], f"{towards}the named answers")
    assert values("0") == ([2, -1], values("ill")[1]), "the output itself, as in Captum"


def test_none_is_the_predicted_class() -> None:
    values, numbers, _ = score(-OUTPUT, None, PLAIN)
    assert values.tolist() == [0, -4, -8]
    assert numbers is not None and numbers.tolist() == [0, 0, 0]
    values, numbers, target_description = score(torch.tensor([3.0, 4.0]), None, PLAIN)
    assert values.tolist() == [3, 4] and numbers is None
    assert target_description == "the model's one logit, towards the predicted answer"


def test_none_without_a_classifier_is_the_features_own_direction() -> None:
    features = torch.tensor([[3.0, 4.0]], requires_grad=True)
    headless = nn.Identity()
    headless.num_classes = 0
    values, numbers, target_description = score(features, None, headless)
    assert values.tolist() == [5] and numbers is None
    assert target_description == "the model's own feature direction"
    (gradient,) = torch.autograd.grad(values.sum(), features)
    torch.testing.assert_close(gradient, torch.tensor([[0.6, 0.8]]))


@pytest.mark.parametrize(
    ("output", "target", "words"),
    [
        (OUTPUT, 4, "expected 0 to 3 for an output of shape .*, got 4"),
        (OUTPUT, -1, "expected 0 to 3"),
        (OUTPUT, [0, 1], "expected 3 targets, one per image, got 2"),
        (OUTPUT, torch.tensor([0.0, 1.0, 2.0]), "expected whole numbers"),
        (OUTPUT, torch.tensor([[0], [1], [2]]), "expected whole numbers"),
        (OUTPUT, (1, 2), "expected 1 indices"),
        (OUTPUT, "cat", "expected a class number"),
        (OUTPUT, True, "expected a class number"),
        (OUTPUT, [0, 1, 9], "got 9"),
        (DEEP, 1, "expected 2 indices"),
        (DEEP, None, "got None"),
    ],
)
def test_wrong_targets_raise_one_line(output, target, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(TargetError, match=words) as raised:
        score(output, target, PLAIN)
    assert "\n" not in str(raised.value)


def test_outputs_of_many_kinds() -> None:
    assert output_tensor(OUTPUT) is OUTPUT
    assert output_tensor({"loss": 1, "logits": OUTPUT}) is OUTPUT
    assert output_tensor({"last_hidden_state": DEEP, "image_embeds": OUTPUT}) is OUTPUT
    assert output_tensor({"last_hidden_state": DEEP, "pooler_output": None}) is DEEP
    assert output_tensor({"features": OUTPUT}) is OUTPUT
    assert output_tensor({"loss": torch.tensor(1.0), "out": DEEP, "aux": OUTPUT}) is DEEP
    assert output_tensor((OUTPUT, DEEP)) is OUTPUT
    assert output_tensor((torch.tensor(1.0), None, OUTPUT)) is OUTPUT
    assert output_tensor(SimpleNamespace(logits=OUTPUT)) is OUTPUT
    assert output_tensor(SimpleNamespace(logits=None, pooler_output=OUTPUT)) is OUTPUT
    for wrong in (None, {}, [], "logits", torch.tensor(1.0), {"logits": "many"}, [{"boxes": DEEP}]):
        with pytest.raises(UnsupportedModelError, match="model output: expected a tensor"):
            output_tensor(wrong)


@pytest.mark.parametrize(
    ("output", "name"),
    [
        ({"image_embeds": OUTPUT, "last_hidden_state": DEEP}, "image_embeds"),
        (SimpleNamespace(last_hidden_state=DEEP, pooler_output=OUTPUT), "pooler_output"),
        ({"x_norm_patchtokens": DEEP, "x_norm_clstoken": OUTPUT}, "x_norm_clstoken"),
        ({"last_hidden_state": DEEP}, "last_hidden_state"),
    ],
)
def test_features_are_known_by_their_name(output, name) -> None:  # type: ignore[no-untyped-def]
    values, classes, target_description = score(output, None, PLAIN)
    flat = output_tensor(output).flatten(1)
    torch.testing.assert_close(values, flat.norm(dim=1))
    assert classes is None and target_description == f"the model's own feature direction ({name})"


def test_logits_next_to_features_are_classes() -> None:
    assert (
        score({"image_embeds": -OUTPUT, "logits": OUTPUT}, None, PLAIN).classes.tolist() == [3] * 3
    )
    headless = nn.Identity()
    headless.num_classes = 0
    assert score({"logits": OUTPUT}, None, headless).classes.tolist() == [3] * 3


def test_towers_that_project_to_the_space_of_the_text_have_no_classes() -> None:
    tower = nn.Identity()
    tower.output_dim, tower.proj = 4, nn.Parameter(torch.zeros(4, 4))
    assert score(OUTPUT, None, tower).classes is None
    assert score(OUTPUT, 2, tower).classes.tolist() == [2] * 3
    open_clip_model = type("CLIP", (nn.Module,), {"__module__": "open_clip.model"})()
    assert score((OUTPUT, None, torch.tensor(100.0)), None, open_clip_model).classes is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_the_own_direction_of_features_of_length_1_is_refused(dtype: torch.dtype) -> None:
    random_features = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    features = nn.functional.normalize(random_features, dim=1).to(dtype)
    with pytest.raises(
        TargetError, match="their length along their own direction is constant"
    ) as raised:
        score({"image_embeds": features}, None, PLAIN)
    assert "\n" not in str(raised.value)
    features[1] *= 1.2
    assert score({"image_embeds": features}, None, PLAIN).values.shape == (3,)


# --- functions --------------------------------------------------------------------------------


def graded() -> Tensor:
    return OUTPUT.clone().requires_grad_()


def second(output: Tensor) -> Tensor:
    return output[:, 1]


def test_a_function_gets_the_output_as_it_is() -> None:
    output = {"logits": graded(), "extra": 3}
    values, classes, target_description = score(
        output, lambda output_dict: output_dict["logits"][:, 2] * output_dict["extra"], PLAIN
    )
    assert values.tolist() == [6, 18, 30] and classes is None
    assert target_description == "<lambda> of the output"
    assert score(graded(), second, PLAIN).target_description == "second of the output"


def test_functions_in_a_list_get_one_image_each() -> None:
    shapes = []

    def of(category: int):  # type: ignore[no-untyped-def]
        def function(image_output: Tensor) -> Tensor:
            shapes.append(tuple(image_output.shape))
            return image_output[category : category + 1]

        return function

    values, classes, target_description = score((graded(), "rest"), [of(0), of(3), of(1)], PLAIN)
    assert values.tolist() == [0, 7, 9] and classes is None
    assert shapes == [(4,)] * 3 and "each image" in target_description
    with torch.no_grad():
        assert score(OUTPUT, [of(0)] * 3, PLAIN).values.tolist() == [0, 4, 8]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (lambda output: output.sum().item(), "returns a tensor, got float"),
        (lambda output: output.sum(), "one number per image, .3,., got .. — sum over"),
        (lambda output: output, "got .3, 4. — sum over the other axes"),
        (lambda output: output.argmax(1), "real numbers, got torch.int64"),
        (lambda output: output[:, 1].detach(), "without a gradient"),
        (lambda output: torch.zeros(3), "without a gradient"),
        (lambda output: output[:, 1] / 0 * 0, "finite numbers, got NaN"),
        ([second, second], "expected 3 functions, one per image, got 2"),
        ([lambda output: output] * 3, "a single number for one image, .., got .4,."),
        ([lambda output: output[1].detach()] * 3, "without a gradient"),
        ([second, 1, 2], "or a function, got <function"),
    ],
)
def test_functions_that_return_something_else_raise_one_line(target, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(TargetError, match=words) as raised:
        score(graded(), target, PLAIN)
    assert "\n" not in str(raised.value)


def test_a_class_by_function_is_the_class_by_number() -> None:
    model, x = build("class-token"), images()
    explainer = SIFTPatchInterrelation(model)
    expected = explainer.attribute(x, target=[1, 3])
    for target in (
        lambda output: torch.stack([output[0, 1], output[1, 3]]),
        [lambda output: output[1], lambda output: output[3]],
    ):
        assert torch.equal(explainer.attribute(x, target=target), expected)
        recorded = record(model, x, target=target)
        assert (
            recorded.prediction.target is None
            and recorded.prediction.score.tolist() == recorded.logits[[0, 1], [1, 3]].tolist()
        )


def test_a_direction_of_features_is_explained_with_a_note() -> None:
    model, x = build("class-token"), images()
    model.reset_classifier(0)
    text = torch.randn(model.num_features, generator=torch.Generator().manual_seed(0))

    def similarity(features: Tensor) -> Tensor:
        return nn.functional.cosine_similarity(features, text[None])

    explainer = SIFTPatchInterrelation(model)
    explanation = explainer.explain(x, target=similarity)
    assert explanation.notes == ("Explained, in place of a class: similarity of the output.",)
    opposite = explainer.explain(x, target=lambda features: -similarity(features))
    assert explanation.target is None and not torch.allclose(
        explanation.heat_map, opposite.heat_map
    )
    assert not torch.allclose(explanation.heat_map, explainer.explain(x).heat_map)


def test_one_class_of_a_map_of_classes() -> None:
    class Segments(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = build("class-token")

        def forward(self, inputs: Tensor) -> dict[str, Tensor]:
            tokens = self.trunk.forward_features(inputs)[:, 1:]
            return {"out": self.trunk.head(tokens).mT.unflatten(2, (3, 4))}

    explainer, x = SIFTPatchInterrelation(Segments().eval()), images()
    second_class = explainer.attribute(x, target=lambda output: output["out"][:, 2].sum((1, 2)))
    by_hand = [lambda output: output[2].sum(), lambda output: output[2].sum()]
    torch.testing.assert_close(explainer.attribute(x, target=by_hand), second_class)
    one_place = explainer.explain(x, target=(2, 1, 1))
    assert one_place.notes == ("Explained, in place of a class: the output at (2, 1, 1).",)
    with pytest.raises(
        TargetError, match="expected a target for an output of shape .2, 5, 3, 4., got None"
    ):
        explainer.attribute(x)


# --- containers of integers -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "classes"),
    [
        (np.int64(2), [2, 2, 2]),
        (np.uint8(2), [2, 2, 2]),
        (np.array(2), [2, 2, 2]),
        (np.array([2]), [2, 2, 2]),
        (np.array([0, 1, 3]), [0, 1, 3]),
        (np.array([0, 1, 3], np.int16), [0, 1, 3]),
        (np.array([0, 1, 3], object), [0, 1, 3]),
        ([np.int64(0), torch.tensor(1), np.array(3)], [0, 1, 3]),
        ((np.int32(1),), [1, 1, 1]),
        ([(np.int32(0),), (1,), (torch.tensor(3),)], [0, 1, 3]),
        (torch.tensor([0, 1, 3], dtype=torch.int32), [0, 1, 3]),
    ],
)
def test_integers_of_every_container(target, classes) -> None:  # type: ignore[no-untyped-def]
    values, numbers, target_description = score(OUTPUT, target, PLAIN)
    assert numbers is not None and numbers.tolist() == classes and not target_description
    assert torch.equal(values, OUTPUT[torch.arange(3), torch.tensor(classes)])


def test_a_series_of_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    series = pandas.Series([0, 1, 3], index=[5, 6, 7])
    assert score(OUTPUT, series, PLAIN).classes.tolist() == [0, 1, 3]
    with pytest.raises(TargetError, match="expected 3 targets, one per image, got 2"):
        score(OUTPUT, series[:2], PLAIN)


@pytest.mark.parametrize(
    "target",
    [np.array([0.0, 1.0, 3.0]), np.float32(1), np.array([[0], [1], [3]]), np.array([True] * 3),
     torch.tensor([True] * 3), torch.tensor(1.0), np.array(["a", "b", "c"]), np.array([])],
)  # fmt: skip
def test_arrays_of_other_types_raise_one_line(target) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(TargetError, match="^target: expected") as raised:
        score(OUTPUT, target, PLAIN)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", sorted(explainers))
def test_targets_made_in_inference_mode_of_numpy_and_by_name(name: str) -> None:
    model, x = build("class-token"), images()
    explainer = explainers.resolve(name)(model)
    expected = explainer.patch_map(x, target=[1, 3])
    with torch.inference_mode():
        target = torch.tensor([1, 3])
    assert torch.equal(explainer.patch_map(x, target=target), expected)
    assert torch.equal(explainer.patch_map(x, target=np.array([1, 3])), expected)
    model.classes = tuple("abcde")
    assert torch.equal(explainer.patch_map(x, target=["b", "d"]), expected)
