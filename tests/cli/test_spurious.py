"""`semattn spurious`: result files, console output, refusals and resuming."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
from PIL import Image

from semattn import report, viz
from semattn.cli.spurious import SPURIOUS_FILES, report_discovery, write_spurious
from semattn.spurious import Effect, load_discovery
from semattn.viz.spurious_figure import fade_outside
from semattn.viz.texts import format_nats, format_p, rejection_reason, search_outcome
from tests.conftest import refused
from tests.discoveries import NONE, cue, discovery, mark_cue
from tests.report.pages import NASTY, content_of
from tests.result_files import names_in

FILES = sorted([*SPURIOUS_FILES.values(), "report.html"])


def fill(folder, count=8, first=0):
    """Smooth pictures of noise, all different."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        rng = np.random.default_rng((len(folder.name), number))
        small = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
        small.resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{number}.png")


@pytest.fixture
def folder(elsewhere):
    """Two classes of the tiny model, and files that are no pictures."""
    for name in ("dog", "cup_or pot"):
        fill(elsewhere / "photos" / name)
    (elsewhere / "photos/dog/words.txt").write_text("no picture")
    (elsewhere / "photos/dog/[red].png").write_bytes(b"")
    return elsewhere / "photos"


def test_it_writes_everything_and_says_where(run, folder, tmp_path):
    status, out, err = run("spurious", folder)
    assert status == 0, err
    assert not err
    results = tmp_path / "semattn-spurious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", results.name]
    assert names_in(results) == FILES
    assert "skipped: 2" in out and "[red].png:" in out and "words.txt:" in out
    assert "searched: dog, Cup or pot" in out or "searched: Cup or pot, dog" in out
    assert out.endswith(f"{', '.join([*SPURIOUS_FILES.values(), 'report.html'])}\n")
    result = json.loads((results / "spurious.json").read_text(), parse_constant=pytest.fail)
    assert result["images"] == 16 and len(result["skipped"]) == 2
    if not any(cue_entry["confirmed"] for cue_entry in result["cues"]):
        assert "no cue confirmed at level .05 among" in out and "does not prove" in out
    assert load_discovery(results / "spurious.npz").images == 16
    with (results / "spurious.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == len(result["cues"])
    with (results / "spurious-images.csv").open() as stream:
        rows = [(row["cue"], row["image"]) for row in csv.DictReader(stream)]
    assert rows == [
        (str(number), image["name"])
        for number, cue_entry in enumerate(result["cues"], 1)
        for image in cue_entry["cue_images"]
    ]
    with Image.open(results / "spurious.png") as picture:
        assert picture.width > 1500
    page = content_of((results / "report.html").read_text())
    assert page["spurious"]["outcome"] in out
    assert page["spurious"]["accuracy"] == result["accuracy"] is not None


def test_the_page_can_be_left_out_and_a_class_asked_for(run, folder, tmp_path):
    status, out, err = run("spurious", folder, "--no-report", "--only", "DOG", "--out", "made")
    assert status == 0, err
    assert "searched: dog\n" in out
    assert names_in(tmp_path / "made") == FILES[1:]


def test_without_labels_the_predicted_classes_stand_in(run, folder, tmp_path, monkeypatch):
    from semattn.spurious import feature_extractor

    extract = feature_extractor.FeatureExtractor.extract

    def see(self, images):
        """The tiny model knows one class only; here half of the pictures are of another."""
        from dataclasses import replace

        features = extract(self, images)
        logits = features.logits.clone()
        logits[::2, 1], logits[1::2, 4] = 50, 50
        return replace(features, logits=logits)

    monkeypatch.setattr(feature_extractor.FeatureExtractor, "extract", see)
    for path in folder.iterdir():
        path.rename(folder / {"dog": "wolf", "cup_or pot": "jug"}[path.name])
    status, out, err = run("spurious", folder, "--no-report")
    assert status == 0, err
    assert "jug, wolf are not classes of the model: every image is searched under the class" in out
    result = json.loads((tmp_path / "semattn-spurious/spurious.json").read_text())
    assert result["accuracy"] is None
    assert {entry["name"] for entry in result["classes"]} == {"dog", "Car, cars"}


def test_an_interrupted_search_goes_on(run, folder, tmp_path, monkeypatch):
    from semattn.spurious.feature_extractor import FeatureExtractor

    assert run("spurious", folder, "--out", "whole", "--batch-size", 4)[0] == 0
    extract, counts = FeatureExtractor.extract, []

    def interrupt(self, images):
        counts.append(len(images.pixels))
        if len(counts) == 7:
            raise KeyboardInterrupt
        return extract(self, images)

    monkeypatch.setattr(FeatureExtractor, "extract", interrupt)
    arguments = ("spurious", folder, "--out", "parts", "--batch-size", 4)
    status, out, err = run(*arguments)
    assert status == 130 and not out and err.count("\n") == 1
    assert names_in(tmp_path / "parts") == [".search"]
    refused(run(*arguments, "--seed", 3), "out: expected results of this search")
    assert (tmp_path / "parts/.search").exists(), "a refusal takes nothing away"
    done = len(counts)
    status, out, err = run(*arguments)
    assert status == 0, err
    assert len(counts) - done == 4 + 4 - (7 - 1), "only what was not done"
    uninterrupted, parts = (
        (tmp_path / name / "spurious.json").read_text() for name in ("whole", "parts")
    )
    assert json.loads(uninterrupted) == json.loads(parts)
    assert names_in(tmp_path / "parts") == FILES


def nothing(folder):
    pass


def empty(folder):
    folder.mkdir()


def one_class(folder):
    fill(folder / "dog")


def one_image(folder):
    for name in ("dog", "cup or pot"):
        fill(folder / name, count=1)


def no_pictures(folder):
    for name in ("dog", "cup or pot"):
        (folder / name).mkdir(parents=True)
        (folder / name / "a.png").write_bytes(b"no picture")


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    ("prepare", "arguments", "parts"),
    [
        (nothing, [], ["some", "folder: expected a readable folder"]),
        (empty, [], ["folder: expected pictures, got none in some"]),
        (one_class, [], ["images of at least two classes, got dog only"]),
        (one_image, [], ["expected at least 6 images of a class", "dog (1)"]),
        (no_pictures, [], ["expected images that can be read, got none", "a.png"]),
        (one_class, ["--only", "dgo"], ["target: unknown class 'dgo'", "did you mean 'dog'"]),
        (one_class, ["--alpha", "2"], ["alpha: expected a value between 0 and 1, got 2"]),
        (
            one_class,
            ["--min-relative-risk", "0.5"],
            ["min_relative_risk: expected at least 1, got 0.5"],
        ),
        (one_class, ["--max-candidates", "0"], ["--max-candidates"]),
        (one_class, ["--detector", "sfit"], ["did you mean 'sift'"]),
        (one_class, ["--device", "abacus"], ["abacus", "--device cpu"]),
        (one_class, ["--class-names", "nothing.txt"], ["class names: expected a text file"]),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_left(run, tmp_path, prepare, arguments, parts):
    prepare(tmp_path / "some")
    refused(run("spurious", "some", *arguments), *parts)
    assert {path.name for path in tmp_path.iterdir()} <= {"some"}


def test_a_class_with_too_few_images_is_left_out_and_named(run, folder):
    fill(folder / "owl, owls", count=2)
    status, out, err = run("spurious", folder, "--no-report")
    assert status == 0, err
    assert "classes with fewer than 6 images are left out: owl, owls (2)" in out


def found():
    return discovery(
        cue(NASTY, where="around the object"), cue("cat", number=0, removal=NONE, interval=(0, 0)),
        cue("dog", confirmed=False, number=1),
    )  # fmt: skip


def test_words_are_honest():
    assert search_outcome(found()) == "2 cues confirmed at level .05 among 57 candidates, 3 tested"
    none = discovery(cue(confirmed=False))
    assert search_outcome(none).startswith(
        "no cue confirmed at level .05 among 57 candidates, 1 tested"
    )
    assert "this does not prove that there is none" in search_outcome(none)
    assert rejection_reason(none.cues[0], none).startswith("transplanting it into images")
    weak = cue(confirmed=False, removal=Effect(0.1, -0.1, 0.3, 24, 0.3),
               transplant=Effect(1.0, 0.5, 2.0, 24, 0.001))  # fmt: skip
    assert rejection_reason(weak, discovery(weak)) == "no significant effect of its removal"
    alone = cue(confirmed=False, p=0.4, removal=Effect(1.0, 0.5, 2.0, 24, 0.0001))
    assert rejection_reason(alone, discovery(alone)).startswith(
        "no significant effect of its transplant"
    )
    shared = cue(confirmed=False, p=0.4, removal=Effect(1.0, 0.5, 2.0, 24, 0.0001),
                 transplant=Effect(1.0, 0.5, 2.0, 24, 0.0001, specificity=0.4))  # fmt: skip
    expected = "its transplant affects other classes as much"
    assert rejection_reason(shared, discovery(shared)) == expected
    assert rejection_reason(cue(), found()) == ""
    assert [format_p(p) for p in (0.05, 0.0004, 1.0, 0.1234)] == [".05", "< .001", "1", ".123"]
    assert (
        format_nats(NONE) == "–"
        and format_nats(Effect(-0.001, -1, 1, 3, 0.5)) == "0.00 [−1.00, 1.00]"
    )


def test_the_figure_has_a_row_a_cue_with_its_patches_outlined():
    figure = viz.spurious(found())
    content = " ".join(text.get_text() for text in figure.texts)
    assert "2 cues confirmed" in content and "90 % → 25 % after removal" in content
    assert "1.50 [1.00, 2.00]" in content and "$" not in content
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 2 * 6
    assert len(panels[0].collections[0].get_segments()) == 4, "a single patch has four sides"
    picture = fade_outside(found().cues[0].examples[0])
    assert (picture[32:, 48:] == (250, 240, 60)).all(), "the cue stays as it is"
    assert (picture[:32, :48] > 60).all(), "the rest steps back"
    assert len([axes for axes in viz.spurious(discovery(*[cue()] * 9)).axes if axes.images]) == 24


def test_the_figure_says_that_nothing_is_confirmed():
    for none in (discovery(), discovery(cue("a$b^_" * 20, confirmed=False, groups=()))):
        figure = viz.spurious(none)
        content = " ".join(text.get_text() for text in figure.texts)
        assert "No cue confirmed" in content and "this does not prove that there is none" in content
        figure.canvas.draw()


def test_files_of_a_discovery_by_hand(tmp_path):
    files = write_spurious(found(), tmp_path / "made")
    result = json.loads(files["result"].read_text(), parse_constant=pytest.fail)
    assert result["cues"][1]["removal"]["mean"] is None
    with files["table"].open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["confirmed"] for row in rows] == ["True", "True", "False"]
    assert rows[0]["class"] == NASTY and float(rows[0]["removal_low"]) == 1.0
    assert rows[1]["removal"] == "" and float(rows[1]["transplant"]) == 0.75
    again = load_discovery(files["cues"])
    assert [confirmed.name for confirmed in again.confirmed] == [NASTY, "cat"]
    assert math.isnan(again.cues[1].removal.mean)


def test_files_and_output_of_a_mark(tmp_path, capsys):
    unknown = {"removal": NONE, "interval": (math.nan, math.nan), "score": math.nan}
    marks = discovery(mark_cue(), mark_cue("cat", confirmed=False, **unknown))
    files = write_spurious(marks, tmp_path / "results")
    result = json.loads(files["result"].read_text(), parse_constant=pytest.fail)
    entry = result["cues"][0]
    assert entry["mark"]["n_inside"] == 9 and len(entry["mark"]["examples"][0]["outlines"]) == 2
    with files["table"].open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["where"] for row in rows] == ["a mark at any place"] * 2
    assert rows[1]["score"] == "" and "nan" not in files["table"].read_text()
    report_discovery(marks, files, [])
    out = " ".join(capsys.readouterr().out.split())
    assert "a mark at any place" in out and "1 cue confirmed at level .05" in out
    assert "not confirmed: cat: pasting it into images of other classes has no effect" in out
    assert load_discovery(files["cues"]).confirmed[0].mark.n_inside == 9


def test_the_help_mentions_marks(run):
    status, out, _ = run("spurious", "--help")
    assert status == 0 and "Recurring marks, such as watermarks" in " ".join(out.split())


def test_the_page_holds_pictures_of_what_is_confirmed_alone(monkeypatch):
    page = report.build(discovery=found())
    assert page.title == "spurious · semattn"
    assert "<img src=x" not in page.html and page.html.count("</script>") == 2
    part = content_of(page.html)["spurious"]
    assert [entry["class"] for entry in part["cues"]] == [NASTY, "cat"]
    assert [len(entry["examples"]) for entry in part["cues"]] == [8, 8]
    assert all(shown["source"].startswith("data:image/jpeg;base64,")
               for shown in part["cues"][0]["examples"])  # fmt: skip
    assert part["cues"][0]["examples"][1]["before"] is None
    assert part["cues"][1]["removal"]["mean"] is None
    assert part["unconfirmed"][0]["examples"] == []
    assert part["unconfirmed"][0]["rejection_reason"]
    assert any("prompter.steer(cue)" in step["code"] for step in part["next"])
    assert part["left_out"] == 0
    size = sum(
        len(shown["source"]) + len(shown["matches"]) for shown in part["cues"][0]["examples"]
    )
    monkeypatch.setattr("semattn.report.dataset_content.ROOM", 2 * size)
    part = content_of(report.html(discovery=discovery(*[cue()] * 3)))["spurious"]
    assert [len(entry["examples"]) for entry in part["cues"]] == [8, 8, 0]
    assert part["left_out"] == 1
    with pytest.raises(TypeError, match="discovery: expected a Discovery, got dict"):
        report.build(discovery={})


def test_forty_cues_of_large_noisy_pictures_stay_small():
    rng = np.random.default_rng(0)
    from dataclasses import replace

    pixels = rng.integers(0, 255, (300, 300, 3), dtype=np.uint8)
    noisy = cue(examples=8)
    noisy = replace(
        noisy, examples=tuple(replace(example, pixels=pixels) for example in noisy.examples)
    )
    page = report.html(discovery=discovery(*[noisy] * 40))
    assert len(page.encode()) < 8e6
    part = content_of(page)["spurious"]
    assert part["left_out"] > 0 and part["cues"][0]["examples"] and not part["cues"][-1]["examples"]
