"""Tests of resumed runs: the pictures must be those of the start of the run."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

pytest.importorskip("accelerate")

from semattn.data import list_images
from semattn.masking import RandomMasking
from semattn.pretraining import inputs as module, models, pretrain
from semattn.pretraining.checkpoints import RunError
from semattn.utils import input_identity as identity
from semattn.utils.processes import LockedError
from semattn.utils.result_folder import OutputError
from tests.pretraining.runs import TINY, options, pictures
from tests.result_files import names_in

SMALL = ("--model", "least", "--image-size", 32, "--patch-size", 8, "--batch-size", 4,
         "--device", "cpu", "--workers", 0, "--precision", "float32", "--epochs", 2,
         "--masking", "random")  # fmt: skip


class StoppedError(Exception):
    """Simulated interruption."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path):
    """Return a folder of eight photographs in two subfolders, and one unreadable picture."""
    for number, picture in enumerate(pictures(8)):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    content = (tmp_path / "photos/a/00.png").read_bytes()
    (tmp_path / "photos/broken.png").write_bytes(content[: len(content) // 2])
    return tmp_path / "photos"


def train(folder, out, stop=None, **more):
    """Run `pretrain`; interrupt it after `stop` steps of training."""

    def progress(stage, done, total):
        if (stage, done) == ("training", stop):
            raise StoppedError

    arguments = {"masking": RandomMasking(), "epochs": 2, "batch_size": 4, "progress": progress}
    return pretrain(list_images(folder), out, **options(**(arguments | more)))


def interrupt_run(folder, out, step=3, **more):
    """Interrupt a run after its first checkpoint, at step 2."""
    with pytest.raises(StoppedError):
        train(folder, out, step, **more)


def weights(out):
    return load_file(out / "model/model.safetensors")


def equal_weights(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[x], second[x]) for x in first)


GUIDED = {"masking": options()["masking"]}


@pytest.mark.parametrize("more", [{}, GUIDED], ids=["random", "guided"])
@pytest.mark.parametrize("change", ["nothing", "remove", "copy", "touch"])
def test_a_run_is_resumed_without_unreadable_pictures_and_after_a_move(
    folder, tmp_path, change, more
):
    uninterrupted = train(folder, tmp_path / "whole", **more)
    assert [name for name, _ in uninterrupted.skipped] == ["broken.png"]
    assert "damaged" in uninterrupted.skipped[0][1] or "image:" in uninterrupted.skipped[0][1]
    assert uninterrupted.settings["pictures"] == 8
    interrupt_run(folder, tmp_path / "parts", **more)
    if change == "remove":
        (folder / "broken.png").unlink()
    elif change == "copy":
        shutil.copytree(folder, tmp_path / "elsewhere/deep")
        shutil.rmtree(folder)
        folder = tmp_path / "elsewhere/deep"
    elif change == "touch":
        for file in list_images(folder):
            os.utime(file, (1, 1))
    resumed = train(folder, tmp_path / "parts", **more)
    assert resumed.resumed == 2
    assert equal_weights(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    again = train(folder, tmp_path / "parts", **more)
    assert again.resumed == 4


def test_changed_pictures_are_refused_until_they_are_restored(folder, tmp_path):
    uninterrupted = train(folder, tmp_path / "whole")
    interrupt_run(folder, tmp_path / "parts")
    file, old = folder / "b/03.png", (folder / "b/03.png").read_bytes()
    status = file.stat()

    def refusal(*parts):
        with pytest.raises(
            RunError, match="pictures: expected the 8 pictures of the run in .*parts"
        ) as error:
            train(folder, tmp_path / "parts")
        assert "\n" not in str(error.value)
        assert all(part in str(error.value) for part in parts), str(error.value)

    file.write_bytes((folder / "b/05.png").read_bytes()[:-1] + b"x")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    file.write_bytes((folder / "b/05.png").read_bytes())
    refusal("got 8: 1 edited (b/03.png)", "restore them to resume, or choose another folder")
    file.write_bytes(old[:50])
    refusal("got 7: 1 removed (b/03.png) — b/03.png cannot be read: image:")
    file.unlink()
    refusal("got 7: 1 removed (b/03.png)")
    file.write_bytes(old)
    (folder / "b/09.png").write_bytes(old)
    refusal("got 9: 1 added (b/09.png)")
    (folder / "b/09.png").unlink()
    (folder / "broken.png").write_bytes(old)
    refusal("1 added (broken.png)")
    before = train(folder, tmp_path / "fresh")  # another folder, as the message advises
    assert before.settings["pictures"] == 9
    (folder / "broken.png").write_bytes(b"")
    assert train(folder, tmp_path / "parts").resumed == 2
    assert equal_weights(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    assert uninterrupted.settings["pictures_sha256"] != before.settings["pictures_sha256"]


@pytest.mark.parametrize("more", [{}, GUIDED], ids=["random", "guided"])
def test_pictures_may_change_before_the_first_checkpoint(folder, tmp_path, more):
    interrupt_run(folder, tmp_path / "parts", 1, **more)
    Image.fromarray(pictures(20)[19]).save(folder / "b/03.png")
    (folder / "a/02.png").unlink()
    with pytest.warns(UserWarning, match="pictures: 1 edited .*, 1 removed .* no checkpoint yet"):
        resumed = train(folder, tmp_path / "parts", **more)
    assert resumed.resumed == 0 and resumed.settings["pictures"] == 7
    train(folder, tmp_path / "whole", **more)
    assert equal_weights(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    first, second = (json.loads((tmp_path / name / "pretrain.json").read_text()) for name in
                     ("parts", "whole"))  # fmt: skip
    assert first["settings"] == second["settings"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_becomes_unreadable_during_training_is_named(folder, tmp_path, workers):
    train(folder, tmp_path / "whole")
    file, old = folder / "b/03.png", (folder / "b/03.png").read_bytes()

    def progress(stage, done, total):
        if stage == "training" and done == 0:
            file.write_bytes(old[:50])

    with pytest.raises(RunError, match=r"got one that is not \(image: .*03.png") as error:
        train(folder, tmp_path / "parts", progress=progress, workers=workers)
    assert "\n" not in str(error.value) and "restore it and resume with the same call" in str(
        error.value
    )
    assert not (tmp_path / "parts/model").exists()
    file.write_bytes(old)
    train(folder, tmp_path / "parts", workers=workers)
    assert equal_weights(weights(tmp_path / "parts"), weights(tmp_path / "whole"))


def test_a_picture_that_is_edited_during_training_is_named(folder, tmp_path):
    def progress(stage, done, total):
        if (stage, done) == ("training", 3):
            Image.fromarray(pictures(20)[19]).save(folder / "b/03.png")

    with pytest.warns(UserWarning, match=r"1 pictures changed during training: b/03.png"):
        train(folder, tmp_path / "out", progress=progress)
    with pytest.raises(RunError, match=r"1 edited \(b/03.png\)"):
        train(folder, tmp_path / "out")


def test_pictures_are_read_only_once(folder, tmp_path, monkeypatch):
    interrupt_run(folder, tmp_path / "parts")
    monkeypatch.setattr(identity, "content_digest", lambda file: "broken" in str(file) and "x")
    reasons, check = [], module._read_error
    monkeypatch.setattr(module, "_read_error", lambda file: reasons.append(file) or check(file))
    assert train(folder, tmp_path / "parts").resumed == 2
    assert [file.name for file in reasons] == ["broken.png"]


def test_changed_validation_pictures_are_refused(folder, tmp_path):
    validation_dir = tmp_path / "held"
    shutil.copytree(folder, validation_dir)
    with pytest.warns(UserWarning, match="validation: 1 pictures cannot be read .* broken.png"):
        interrupt_run(folder, tmp_path / "parts", validation=list_images(validation_dir))
    (validation_dir / "broken.png").unlink()
    shutil.copy(validation_dir / "b/03.png", validation_dir / "a/00.png")
    with pytest.raises(
        RunError, match=r"validation: expected the 8 pictures .* got 8: 1 edited \(a/00.png\)"
    ):
        train(folder, tmp_path / "parts", validation=list_images(validation_dir))
    shutil.copy(folder / "a/00.png", validation_dir / "a/00.png")
    assert train(folder, tmp_path / "parts", validation=list_images(validation_dir)).resumed == 2


def test_arrays_are_identified_by_their_pixels(tmp_path):
    arguments = options(masking=RandomMasking(), epochs=1, batch_size=4)
    pretrain(pictures(8), tmp_path / "out", **arguments)
    assert pretrain(pictures(8), tmp_path / "out", **arguments).resumed == 2
    with pytest.raises(RunError, match=r"1 edited \(image 7\)"):
        pretrain([*pictures(7), pictures(20)[19]], tmp_path / "out", **arguments)


def test_a_foreign_model_folder_is_not_overwritten(folder, tmp_path):
    (tmp_path / "out/model").mkdir(parents=True)
    (tmp_path / "out/model/own.txt").write_text("mine")
    with pytest.raises(OutputError, match="model/ was not written by semattn"):
        train(folder, tmp_path / "out")
    assert (tmp_path / "out/model/own.txt").read_text() == "mine"


def test_two_runs_in_one_folder_are_refused(folder, tmp_path):
    def progress(stage, done, total):
        if (stage, done) == ("training", 1):
            with pytest.raises(LockedError, match="is running — wait for it"):
                train(folder, tmp_path / "out")
            raise StoppedError

    with pytest.raises(StoppedError):
        train(folder, tmp_path / "out", progress=progress)


@pytest.mark.parametrize("out", [None, "."])
def test_the_command_resumes_in_the_folder_of_the_pictures(run, folder, monkeypatch, out):
    from semattn.pretraining import trainer

    monkeypatch.setitem(models.SIZES, "least", TINY)
    monkeypatch.chdir(folder)
    arguments = ("pretrain", ".", *SMALL, *(() if out is None else ("--out", out)))
    step = trainer.ProgressReporter.on_step_end

    def interrupt(self, args, state, control, **more):
        if state.global_step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer.ProgressReporter, "on_step_end", interrupt)
    assert run(*arguments)[0] == 130
    monkeypatch.setattr(trainer.ProgressReporter, "on_step_end", step)
    (folder / "broken.png").unlink()
    status, text, err = run(*arguments)
    assert status == 0, err
    assert text.startswith("8 photographs") and "resumed from step 2" in text
    status, text, err = run(*arguments)
    assert status == 0 and text.startswith("8 photographs") and "skipped" not in text
    home = folder if out else folder / "semattn-pretrain"
    assert {"model", "reconstruction.png"} <= set(names_in(home))


def test_the_command_lists_skipped_files(run, folder, monkeypatch, tmp_path):
    monkeypatch.setitem(models.SIZES, "least", TINY)
    (folder / "words.txt").write_text("no picture")
    status, text, err = run("pretrain", folder, *SMALL, "--out", tmp_path / "out")
    assert status == 0, err
    assert text.startswith("8 photographs") and "skipped: 2 that cannot be read" in text
    assert "  broken.png: image: " in text and "  words.txt: image: " in text
