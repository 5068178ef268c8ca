"""P-values of the ways to intervene on a mark, and their table."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from benchmarks.studies.spurious.mark_interventions import CONTROL_ROUNDS, p_values
from benchmarks.studies.spurious.mark_interventions_table import WAYS, mean_rows

CLASSES, WIDTH = 6, 12


def features(effect: float, matte: bool = True):
    """Return features of images that an intervention moves towards class 2 by `effect`."""
    rng = np.random.default_rng(3)

    def draw(count: int, towards: float = 0.0) -> np.ndarray:
        values = 0.05 * rng.normal(size=(count, WIDTH))
        values[:, 2] += towards
        return values

    found = {
        "receivers": np.array([0, 1, 3, 4, 5] * 4), "count": 9, "matte": matte,
        "inpainted": draw(20), "as it is": draw(20), "region pasted": draw(20),
        "true mark drawn": draw(20, effect), "before": draw(9, 2.0), "restored": draw(9),
        "region inpainted": draw(9, 2.0), "strokes inpainted": draw(9),
        "region controls": [draw(9, 2.0)] * CONTROL_ROUNDS,
        "strokes controls": [draw(9, 2.0)] * CONTROL_ROUNDS,
    }  # fmt: skip
    return found | ({"matte drawn": draw(20, effect)} if matte else {})


@pytest.fixture(scope="module")
def head():
    labels = np.repeat(np.arange(CLASSES), 8)
    return LogisticRegression(C=10).fit(np.eye(WIDTH)[labels], labels)


def test_an_effect_on_one_class_is_specific_and_no_effect_is_not(head):
    result = p_values(head, features(3.0), target=2)
    assert result["matte drawn"]["p"] < 0.01 and result["true mark drawn"]["p"] < 0.01
    assert result["region pasted"]["p"] > 0.05
    assert result["strokes inpainted"]["p"] < 0.01 and result["restored"]["p"] < 0.01
    assert result["region inpainted"]["p"] > 0.05 and result["matte drawn"]["mean"] > 1
    assert p_values(head, features(0.0), target=2)["matte drawn"]["p"] > 0.05
    # The same inputs move the score of another class down.
    assert p_values(head, features(3.0), target=4)["matte drawn"]["p"] > 0.05
    assert "matte drawn" not in p_values(head, features(3.0, matte=False), target=2)


def test_the_table_has_the_part_of_the_classes_that_pass():
    row = {"dataset": "compositions", "kind": "logo", "seed": 0, "rate": 0.5, "matte": True}
    rows = [row | {way: {"p": p, "mean": 1.0} for way in WAYS} for p in (0.01, 0.2, 0.04, 0.051)]
    rows.append(row | {"matte": False})
    (of_logo,) = mean_rows(rows)
    assert of_logo["classes"] == 4 and of_logo["mark"] == "logo"
    assert {of_logo[way] for way in WAYS} == {0.5}
