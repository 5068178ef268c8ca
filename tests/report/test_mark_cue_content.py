"""Content of the page for cues that are recurring marks."""

from __future__ import annotations

import math
from dataclasses import replace

from semattn.report.dataset_content import about_discovery
from semattn.report.render import as_json
from semattn.report.thumbnails import mark_pictures, pictures_size
from tests.discoveries import cue, discovery, mark_cue


def test_pictures_have_outlines_matches_and_probabilities():
    shown = mark_cue()
    content = about_discovery(discovery(shown, cue("cat"), mark_cue(confirmed=False)))
    mark, patches = content["cues"]
    assert mark["mark"].startswith("in 9 images of the class (75 %)")
    assert mark["picture"].startswith("data:image/jpeg;base64,")
    assert mark["picture_text"] == "mean of 10 images"
    assert [example["before"] for example in mark["examples"]] == [0.9, None, None]
    regions = shown.mark.examples[0].regions
    assert mark["examples"][0]["outlines"] == [region.outline.tolist() for region in regions]
    assert mark["examples"][0]["matches_text"] == "2 places: 9 and 9 matched keypoints"
    assert patches["mark"] is None and "picture" not in patches
    unconfirmed = content["unconfirmed"][0]
    assert unconfirmed["examples"] == [] and "picture" not in unconfirmed
    assert unconfirmed["rejection_reason"].startswith("pasting it into images of other classes")
    assert as_json(content), "no NaN"


def test_one_place_has_one_number_of_matches():
    mark = mark_cue().mark
    example = replace(mark.examples[0], regions=mark.examples[0].regions[:1])
    pictures = mark_pictures(replace(mark, examples=(example,)))
    assert pictures["examples"][0]["matches_text"] == "9 matched keypoints"


def test_pictures_of_a_mark_count_to_the_room(monkeypatch):
    pictures = mark_pictures(mark_cue().mark)
    size = len(pictures["picture"]) + sum(len(shown["source"]) for shown in pictures["examples"])
    assert pictures_size(pictures) == size
    monkeypatch.setattr("semattn.report.dataset_content.ROOM", size)
    content = about_discovery(discovery(mark_cue(), mark_cue()))
    assert [len(entry["examples"]) for entry in content["cues"]] == [3, 0]
    assert "picture" not in content["cues"][1] and content["left_out"] == 1


def test_the_next_steps_name_erasing_if_a_mark_is_confirmed():
    steps = about_discovery(discovery(mark_cue()))["next"]
    assert any("cue.erase" in step["code"] for step in steps)
    for other in (cue(), mark_cue(confirmed=False)):
        steps = about_discovery(discovery(other))["next"]
        assert not any("cue.erase" in step["code"] for step in steps)


def test_an_unknown_probability_is_none():
    untested = tuple(
        replace(example, before=math.nan, without=math.nan) for example in mark_cue().examples
    )
    content = about_discovery(discovery(mark_cue(examples=untested)))["cues"][0]
    assert all(example["before"] is None for example in content["examples"])
    assert content["examples_text"] == ""
