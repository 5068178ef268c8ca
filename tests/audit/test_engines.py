"""Engines of an audit: equal files, resumption, units that end their process, refusals."""

from __future__ import annotations

import builtins
import os

import pytest
import torch

from semattn.audit import audit
from semattn.audit.audit_runner import AuditRunner
from semattn.audit.batch_size import split_into_units
from semattn.audit.engines import engines, ray as of_ray
from semattn.audit.engines.attempts import Attempts, start_attempts
from semattn.audit.unit_computer import UnitTask
from semattn.data import prefetching as loading
from semattn.errors import SemattnError
from semattn.utils.ray_session import check_engine, import_ray
from tests.audit.pictures import results, tiny
from tests.audit.test_audit import rows

pytestmark = pytest.mark.usefixtures("small_units")


def test_ray_writes_the_files_of_one_process_and_resumes(tmp_path, source, ray_cluster):
    """An interruption leaves finished units; the next call computes the others."""
    single = audit(tiny(), source, tmp_path / "one", batch_size=3)
    out, done = tmp_path / "ray", []

    def interrupt(stage, count, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit(tiny(), source, out, batch_size=3, engine="ray", actors=1, progress=interrupt)
    assert ray_cluster.is_initialized() and not (out / "explain.parquet").exists()
    assert list(out.rglob("unit-*.npz"))  # what was reported is stored
    shared = audit(
        tiny(), source, out, batch_size=3, engine="ray", actors=1,
        progress=lambda stage, count, total: done.append((count, total)),
    )  # fmt: skip
    assert results(tmp_path / "one") == results(out)
    assert shared.analysis.summary() == single.analysis.summary()
    assert shared.skipped == single.skipped or shared.images < 12
    assert done[-1][0] == done[-1][1] == shared.images


class Fake:
    """Engine that has started, without Ray."""

    device = torch.device("cpu")
    seconds_between_saves = 0.0


@pytest.fixture
def first_unit(tmp_path, source):
    """Return the computer of an audit, the task of its first unit, and attempts."""
    out = tmp_path / "out"
    options = {"method": "sift-patch-interrelation", "density": "count", "detector": "sift",
               "seed": 0}  # fmt: skip
    runner = AuditRunner(tiny(), source, out, ("explain",), options, None, Fake())
    return runner.computer, UnitTask.of(split_into_units(12, 3)[0], source), Attempts()


def actor_of(computer, attempts, monkeypatch):
    monkeypatch.setattr(of_ray, "_load", lambda *_: computer)
    return of_ray.UnitActor([], "cpu", 1, attempts)


def test_a_unit_that_ends_its_processes_is_left_out(first_unit, monkeypatch, tmp_path):
    computer, task, attempts = first_unit
    for _ in range(of_ray.TRIES - 1):
        attempts.begin("compute", 0)
    actor = actor_of(computer, attempts, monkeypatch)
    contents = of_ray._read(computer.image_loader, attempts, task)
    computed = actor(task, contents)
    assert len(computed.identities) == 6 and not computed.skipped and not computed.is_left_out
    # Attempts that end are not open.
    assert (attempts.count("read", 0), attempts.count("compute", 0)) == (0, of_ray.TRIES - 1)
    attempts.begin("compute", 0)
    assert of_ray._read(computer.image_loader, attempts, task) is None
    left_out = actor(task, contents)
    assert left_out.is_left_out and left_out.identities == computed.identities
    assert {name for name, _, _ in left_out.skipped} == {f"{n:03}.png" for n in range(6)}
    assert all("which ended its process 3 times" in reason for *_, reason in left_out.skipped)


def test_attempts_are_counted_by_an_actor_that_starts_again(ray_cluster):
    """If its process dies, earlier attempts are forgotten, and their end is not counted."""
    counted = start_attempts(ray_cluster)
    counted.begin("compute", 4)
    counted.begin("compute", 4)
    counted.end("compute", 4)
    assert (counted.count("compute", 4), counted.count("read", 4)) == (1, 0)
    ray_cluster.kill(counted.actor, no_restart=False)
    counted.end("compute", 4)
    assert counted.count("compute", 4) == 0
    counted.begin("compute", 4)
    assert counted.count("compute", 4) == 1


def test_a_picture_that_ends_its_reader_is_named(first_unit, monkeypatch):
    """After a death, each batch is read by a process of its own, as by local workers."""
    computer, task, attempts = first_unit
    load = loading.ImageLoader.load

    def dying(self, first, sources, **more):
        if any("004" in str(path) for path in sources):
            assert torch.utils.data.get_worker_info(), "read by this process"
            os._exit(1)
        return load(self, first, sources, **more)

    monkeypatch.setattr(loading.ImageLoader, "load", dying)
    monkeypatch.setattr(loading, "TRIES", 1)
    attempts.begin("read", 0)
    contents = of_ray._read(computer.image_loader, attempts, task)
    result = actor_of(computer, attempts, monkeypatch)(task, contents)
    assert result.skipped == [("004.png", "read", loading.KILLED)]


@pytest.mark.parametrize(
    ("resources", "options", "actors", "cpus", "reading"),
    [
        ({"CPU": 1.0}, {}, (1, 1), 0.5, 0.5),
        ({"CPU": 2.0}, {}, (1, 1), 1, 1.0),
        ({"CPU": 2.0}, {"actors": 2}, (2, 2), 0.5, 1.0),
        ({"CPU": 64.0}, {}, (1, 63), 1, 1.0),
        ({"CPU": 64.0}, {"actors": (4, 8)}, (4, 8), 1, 1.0),
        ({"CPU": 64.0, "GPU": 8.0}, {}, (1, 8), None, 1.0),
        ({"CPU": 64.0, "GPU": 8.0}, {"gpus": 0.5}, (1, 16), None, 1.0),
        ({"CPU": 64.0, "GPU": 8.0}, {"gpus": 0}, (1, 63), 1, 1.0),
    ],
)
def test_actors_leave_cpus_for_reading(resources, options, actors, cpus, reading):
    engine = of_ray.RayEngine(tiny(), workers=None, **options)
    engine.threads = 1
    engine._plan(resources)
    assert (engine.actors, engine.actor_cpus, engine.reading_cpus) == (actors, cpus, reading)
    assert engine.device.type == ("cpu" if cpus else "cuda")


def test_options_of_another_engine_are_refused(tmp_path, source):
    for options, message in (
        ({"engine": "spark"}, "unknown name 'spark'"),
        ({"address": "auto"}, "address: expected none with the engine 'local'"),
        ({"actors": 2}, "actors: expected none with the engine 'local'"),
        ({"engine": "ray", "actors": (3, 1)}, "actors: expected at least 1, in order"),
        ({"engine": "ray", "workers": 0}, "workers: expected at least 1 with Ray"),
        ({"engine": "ray", "process": (0, 2)}, r"process: expected \(0, 1\)"),
        ({"engine": "ray", "address": "ray://head:10001"}, "does not run through Ray Client"),
    ):
        with pytest.raises(ValueError, match=message):
            audit(tiny(), source, tmp_path / "out", **options)
    assert set(engines) == {"local", "ray"} and not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="did you mean 'ray'"):
        check_engine("rays", None)


def test_a_model_that_cannot_be_sent_is_refused(tmp_path):
    model = tiny()
    model.log = (tmp_path / "log").open("w")
    engine = of_ray.RayEngine(model)
    engine.ray = import_ray()
    computer = type("Computer", (), {"model": model})()
    with pytest.raises(SemattnError, match="expected a model that can be sent to other processes"):
        engine._put(computer)
    model.log.close()


def test_the_absence_of_ray_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without_ray(name, *more):
        if name.split(".")[0] == "ray":
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", without_ray)
    with pytest.raises(SemattnError, match=r"pip install 'semattn\[ray\]'"):
        import_ray()


def test_left_out_units_are_tried_again(tmp_path, source, monkeypatch):
    """The first run leaves a unit out and writes the tables; the second one computes it."""
    from semattn.audit.engines.local import LocalEngine
    from semattn.audit.unit_computer import UnitComputer

    audit(tiny(), source, tmp_path / "one", batch_size=3)
    real = UnitComputer.compute

    def leave_out(self, task, batches):
        result = real(self, task, batches)
        return result if task.unit.number else self.leave_out(task, result.identities, "dies")

    with monkeypatch.context() as patch:
        patch.setattr(UnitComputer, "compute", leave_out)
        audit(tiny(), source, tmp_path / "two", batch_size=3)
    assert LocalEngine.seconds_between_saves == 0
    skipped = rows(tmp_path / "two", "skipped")
    assert [(row["name"], row["job"]) for row in skipped[:2]] == [
        ("000.png", "explain"), ("000.png", "analyze"),
    ]  # fmt: skip
    assert len(rows(tmp_path / "two")) == 5
    again = audit(tiny(), source, tmp_path / "two", batch_size=3)
    assert again.images == 6 and results(tmp_path / "one") == results(tmp_path / "two")
