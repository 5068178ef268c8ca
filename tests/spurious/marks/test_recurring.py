"""Recurring marks of a set of images: places, p-values, number of tests, photographs and parts."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.stats import fisher_exact

from semattn.keypoints import no_keypoints
from semattn.keypoints.local_features import LocalFeatures, fine_sift, local_features
from semattn.spurious.marks.recurring import (
    MarkSearchResult,
    RecurringMark,
    _without_parts,
    count_tests,
    find_recurring_marks,
)
from semattn.spurious.marks.template import Region
from tests.keypoints.drawn_marks import corners, features_of, paste, picture, placed, tag

COUNT, MARKED, ALPHA = 18, (0, 3, 4, 7, 8, 12), 0.05
POSES = [
    ((60, 40),), ((120, 80), 1.2, 15), ((100, 60), 0.9, -20), ((50, 70),), ((110, 40), 1.1, 5),
    ((80, 70), 1.0, -10),
]  # fmt: skip
SIZES = np.array([(150, 200) if number % 3 else (120, 180) for number in range(COUNT)])
LABELS = {
    "three classes": np.array([0, 1, 2, 0, 0, 1, 2, 0, 0, 1, 2, 0, 1, 1, 2, 1, 2, 2]),
    "two classes": np.arange(COUNT) % 2,
    "one class": np.full(COUNT, 3),
    "all marks": np.isin(np.arange(COUNT), MARKED).astype(int) * 5,
    "half of each class": np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 1, 1, 1, 0, 0, 0, 2, 2, 2]),
    "unlike counts": np.array([4] * 15 + [9, 9, 9]),
}


@pytest.fixture(scope="module")
def features() -> LocalFeatures:
    """Return features of images of two sizes, six of them with a mark."""
    pictures = [picture(number, tuple(SIZES[number])) for number in range(COUNT)]
    for number, pose in zip(MARKED, POSES, strict=True):
        pictures[number] = paste(pictures[number], tag(), placed(tag(), *pose))
    return features_of(pictures)


@pytest.fixture(scope="module")
def search(features):
    """Return a search with labels by name, each run once."""
    results: dict[str, MarkSearchResult] = {}

    def run(name: str) -> MarkSearchResult:
        if name not in results:
            results[name] = find_recurring_marks(features, LABELS[name], SIZES, ALPHA)
        return results[name]

    return run


def slow_p(shown: np.ndarray, labels: np.ndarray) -> dict[int, float]:
    """Return the p-value of each class by SciPy's test of the table of counts."""
    p_values = {}
    for target in np.unique(labels).tolist():
        inside, outside = shown[labels == target], shown[labels != target]
        table = [[inside.sum(), (~inside).sum()], [outside.sum(), (~outside).sum()]]
        p_values[target] = float(fisher_exact(table, "greater")[1])
    return p_values


# --- search


def test_a_mark_is_found_in_its_images_at_its_places(search):
    mark = search("three classes").marks[0]
    assert sorted(mark.regions) == list(MARKED) and mark.target == 0
    assert mark.shows(COUNT).tolist() == [number in MARKED for number in range(COUNT)]
    for number, pose in zip(MARKED, POSES, strict=True):
        (region,) = mark.regions[number]
        expected = corners(tag(), placed(tag(), *pose))
        for side in (np.min, np.max):
            error = side(region.outline, axis=0) - side(expected, axis=0)
            assert np.abs(error).max() < 6  # the mark is drawn two pixels inside its layer
    assert search("three classes").same_scenes == []


def test_progress_counts_the_steps_of_each_stage(features, search):
    reports: dict[str, list[tuple[int, int]]] = {}
    result = find_recurring_marks(
        features, LABELS["all marks"], SIZES, ALPHA,
        lambda stage, done, total: reports.setdefault(stage, []).append((done, total)),
    )  # fmt: skip
    assert list(reports) == ["comparing keypoints", "matching keypoints", "verifying matches",
                             "locating marks", "completing marks"]  # fmt: skip
    for steps in reports.values():
        done, totals = zip(*steps, strict=True)
        assert list(done) == sorted(done) and set(totals) == {done[-1]}
    assert reports["comparing keypoints"][-1] == reports["matching keypoints"][-1]
    assert reports["matching keypoints"][-1][1] == len(features)
    assert len(reports["locating marks"]) == reports["locating marks"][-1][1]
    assert len(result.marks) == len(search("all marks").marks)


@pytest.mark.parametrize("name", LABELS)
def test_p_is_fishers_exact_test_of_the_class_with_the_lowest_p(search, name):
    result = search(name)
    for mark in result.marks:
        p_values = slow_p(mark.shows(COUNT), LABELS[name])
        assert mark.p == pytest.approx(min(p_values.values()))
        assert p_values[mark.target] == pytest.approx(mark.p)
    assert [mark.p for mark in result.marks] == sorted(mark.p for mark in result.marks)


@pytest.mark.parametrize("name", ["two classes", "half of each class"])
def test_labels_change_only_the_class_and_its_p(search, name):
    before, after = search("three classes").marks, search(name).marks
    if name == "two classes":  # classes of other sizes change the quantile of the background
        before, after = before[:1], after[:1]
    key = {tuple(mark.template.background): mark for mark in after}
    for mark in before:
        rows = key.get(tuple(mark.template.background), mark)
        assert rows.regions.keys() == mark.regions.keys()
        for number, places in mark.regions.items():
            for place, other in zip(places, rows.regions[number], strict=True):
                np.testing.assert_array_equal(place.outline, other.outline)


def test_permuted_labels_keep_all_marks(features, search):
    labels = np.random.default_rng(2).permutation(LABELS["three classes"])
    before = search("three classes").marks
    after = find_recurring_marks(features, labels, SIZES, ALPHA).marks
    assert len(before) == len(after)
    by_size = {len(mark.template.features): mark for mark in after}
    for mark in before:
        other = by_size[len(mark.template.features)]
        np.testing.assert_array_equal(mark.template.features.xy, other.template.features.xy)
        np.testing.assert_array_equal(mark.template.outline, other.template.outline)
        assert mark.regions.keys() == other.regions.keys()
        assert other.p == pytest.approx(min(slow_p(other.shows(COUNT), labels).values()))
    assert before[0].p != after[0].p


def test_a_mark_on_a_part_of_every_class_is_not_significant(search):
    result = search("half of each class")
    mark = max(result.marks, key=lambda mark: len(mark.regions))
    assert sorted(mark.regions) == list(MARKED)
    assert mark.p * result.n_tests > 0.5
    significant = search("all marks")
    assert significant.marks[0].target == 5
    assert significant.marks[0].p == pytest.approx(1 / 18564)  # one of 18 over 6 choices
    assert significant.marks[0].p * significant.n_tests < ALPHA


def test_with_one_class_marks_are_counted_without_a_test(search):
    result = search("one class")
    assert sorted(result.marks[0].regions) == list(MARKED)
    assert {mark.p for mark in result.marks} == {1.0}
    assert {mark.target for mark in result.marks} == {3} and result.n_tests == 1


def test_nearly_the_same_photographs_are_left_out_and_their_mark_is_kept():
    poses = [((60, 40),), ((120, 90), 1.2, 15), ((100, 60), 0.9, -20)]
    pictures = [paste(picture(number), tag(), placed(tag(), *pose))
                for number, pose in enumerate(poses)]  # fmt: skip
    noise = np.random.default_rng(0).normal(0, 2, pictures[0].shape)
    pictures.append((pictures[0] + noise).clip(0, 255).astype(np.uint8))
    pictures += [picture(70), picture(70)]  # equal, without a mark
    features = features_of(pictures, n_plain=8)
    labels, sizes = np.arange(14) % 2, np.full((14, 2), (150, 200))
    result = find_recurring_marks(features, labels, sizes, ALPHA)
    assert result.same_scenes == [(0, 3), (4, 5)]
    assert sorted(result.marks[0].regions) == [0, 1, 2, 3]
    for mark in result.marks:
        assert not {4, 5} & mark.regions.keys()
        for places in mark.regions.values():
            for place in places:
                assert np.prod(np.ptp(place.outline, axis=0)) < 0.5 * 150 * 200


@pytest.mark.parametrize("kind", ["one image", "no keypoints", "few keypoints", "no mark"])
def test_without_marks_the_result_is_empty(kind):
    keypoints = {
        "one image": [fine_sift(picture(0))],
        "no keypoints": [no_keypoints((150, 200))] * 3,
        "few keypoints": [fine_sift(picture(0), max_keypoints=3)] * 4,
        "no mark": [fine_sift(picture(number)) for number in range(4)],
    }[kind]
    labels, sizes = np.arange(len(keypoints)) % 2, np.full((len(keypoints), 2), (150, 200))
    result = find_recurring_marks(local_features(keypoints), labels, sizes, ALPHA)
    assert result == MarkSearchResult([], 1, [])


# --- number of tests


def mark_in(rows, outline=None, p: float = 0.5) -> RecurringMark:
    """Return a mark with one region, by default a square, in each of some rows."""
    outline = square(0, 0, 10) if outline is None else outline
    region = Region(outline, np.eye(2, 3), 9, False)
    return RecurringMark(None, {row: [region] for row in rows}, 0, p)


def square(x: float, y: float, side: float) -> np.ndarray:
    return np.array([[x, y], [x + side, y], [x + side, y + side], [x, y + side]], float)


def slow_count(shown: list[int], sizes: list[int], alpha: float) -> int:
    """Return Tarone's K, from the lowest p-value among all tables of each test."""
    total, least = sum(sizes), []
    for count in shown:
        for size in sizes:
            tables = [
                [[k, size - k], [count - k, total - size - count + k]]
                for k in range(count + 1)
                if k <= size and count - k <= total - size
            ]
            least.append(min(fisher_exact(table, "greater")[1] for table in tables))
    number = 1
    while sum(p <= alpha / number for p in least) > number:
        number += 1
    return number


@pytest.mark.parametrize("sizes", [[30], [4, 26], [10, 10, 10], [2, 3, 5, 20]])
@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_the_number_of_tests_is_tarones(sizes, alpha):
    shown = [2, 2, 3, 4, 5, 5, 6, 9, 15, 30]
    counts = Counter(dict(enumerate(sizes)))
    marks = [mark_in(range(count)) for count in shown]
    for some in (marks, marks[:1], marks[3:6], []):
        counted = [len(mark.regions) for mark in some]
        assert count_tests(some, counts, alpha) == slow_count(counted, sizes, alpha)
    if len(sizes) == 3:
        assert 1 < count_tests(marks, counts, alpha) < len(marks) * 3


# --- parts


def test_a_part_of_an_earlier_mark_is_left_out():
    whole = mark_in(range(10))
    inside = mark_in(range(3, 10), square(2, 2, 3))
    elsewhere = mark_in(range(10), square(40, 40, 10))
    in_others = mark_in(range(8, 20), square(2, 2, 3))
    around = mark_in(range(10), square(-5, -5, 20))
    assert _without_parts([whole, inside]) == [whole]
    assert _without_parts([inside, whole]) == [inside]
    few = mark_in(range(2), square(2, 2, 3))  # with a lower p than the mark that it is a part of
    assert _without_parts([few, whole]) == [few, whole]
    assert _without_parts([whole, few]) == [whole]
    assert _without_parts([whole, around]) == [whole]
    assert _without_parts([whole, elsewhere, in_others]) == [whole, elsewhere, in_others]
    assert _without_parts([]) == []
