"""One model, used by many at once: threads, asyncio tasks, and hooks in the middle of a pass."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from semattn import AttentionPrompter, SIFTPatchInterrelation, record
from semattn.attention.scope import laying_out
from semattn.errors import UnsupportedModelError
from semattn.explain import explainers
from tests.models import build, images, state_of

THREADS, ROUNDS = 4, 3
CHEAP = {"integrated-gradients": {"n_steps": 3}, "smooth-grad": {"nt_samples": 2}}


def explainer(name: str):
    return explainers[name](**CHEAP.get(name, {}))


def at_once(calls):
    """What the calls give, each in a thread of its own, all started together."""
    together = threading.Barrier(len(calls))

    def started(call):
        together.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(started, calls))


@pytest.mark.parametrize("name", sorted(explainers))
def test_threads_explain_with_one_model_as_one_after_the_other(name):
    model = build("registers")
    batches = [images(seed=seed) for seed in range(THREADS)]
    before = state_of(model)
    wanted = [explainer(name).patch_map(model, x, target=1) for x in batches]

    def work(number: int) -> list[Tensor]:
        mine = explainer(name)
        return [mine.patch_map(model, batches[number], target=1) for _ in range(ROUNDS)]

    found = at_once([lambda n=n: work(n) for n in range(THREADS)])
    for one, several in zip(wanted, found, strict=True):
        assert all(torch.equal(one, other) for other in several)
    assert state_of(model) == before


def test_prompters_explainers_and_plain_calls_at_once():
    model = build("class-token")
    batches = [images(seed=seed) for seed in range(6)]
    weights = torch.rand(6, 12, generator=torch.manual_seed(0))
    before = state_of(model)

    def work(number: int) -> list[Tensor]:
        x, made = batches[number], []
        prompter = AttentionPrompter(model, strength=float(number), density="count")
        for _ in range(ROUNDS):
            with torch.no_grad(), prompter.steer(weights[number]):
                made.append(model(x))
                made.append(record(model, x, grad=False).sites[0].attention())
            made.append(SIFTPatchInterrelation().patch_map(prompter, x, target=0))
            made.append(model(x).detach())
        return made

    wanted = [work(number) for number in range(6)]
    found = at_once([lambda n=n: work(n) for n in range(6)])
    for one, other in zip(wanted, found, strict=True):
        assert all(map(torch.equal, one, other))
    assert not torch.equal(wanted[1][0], wanted[1][-1])
    assert state_of(model) == before


def test_asyncio_tasks_of_one_thread_do_not_see_each_other():
    model, x = build("class-token"), images()
    weights = torch.rand(3, 12, generator=torch.manual_seed(0))
    prompter = AttentionPrompter(model)
    before = state_of(model)

    def answers(number: int | None) -> list[Tensor]:
        seen = record(model, x, grad=False).sites[0].attention()
        return [model(x), seen, SIFTPatchInterrelation().patch_map(model, x, target=number)]

    wanted = []
    for number in range(3):
        with prompter.steer(weights[number]):
            wanted.append(answers(number))
    plain = answers(None)

    async def steered(number: int) -> list[Tensor]:
        with prompter.steer(weights[number]):
            for _ in range(3):
                await asyncio.sleep(0)  # the others open theirs, and ask
                made = answers(number)
            return made

    async def bare() -> list[Tensor]:
        for _ in range(3):
            await asyncio.sleep(0)
            made = answers(None)
        return made

    async def everything():
        return await asyncio.gather(*(steered(number) for number in range(3)), bare())

    for one, other in zip([*wanted, plain], asyncio.run(everything()), strict=True):
        assert all(map(torch.equal, one, other))
    assert not torch.equal(wanted[0][0], plain[0])
    assert state_of(model) == before


def within(module: nn.Module, call):
    """A hook that makes `call` once, in the middle of the module's pass that gives the result."""
    made = []

    def hook(*_):
        if not made and not laying_out():
            made.append(None)
            made[0] = call()

    return module.register_forward_hook(hook), made


@pytest.mark.parametrize("name", ["sift-patch-interrelation", "grad-cam", "legrad", "occlusion"])
@pytest.mark.parametrize("place", ["blocks.1", "blocks.1.attn.qkv", "patch_embed.proj"])
@pytest.mark.parametrize("outer", ["sift-patch-interrelation", "grad-cam", "legrad"])
def test_an_explanation_in_the_middle_of_another(outer, name, place):
    model, x, other = build("class-token"), images(), images(seed=5)
    before = state_of(model)
    wanted = explainer(outer).patch_map(model, x, target=1)
    inner = explainer(name).patch_map(model, other, target=2)
    handle, made = within(
        model.get_submodule(place), lambda: explainer(name).patch_map(model, other, target=2)
    )
    found = explainer(outer).patch_map(model, x, target=1)
    handle.remove()
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(made[0], inner)
    assert state_of(model) == before


@pytest.mark.parametrize("place", ["blocks.1", "blocks.1.attn.qkv"])
def test_in_a_prompted_pass_every_call_of_the_model_is_prompted(place):
    model, x, other = build("class-token"), images(), images(3, seed=5)
    prompter = AttentionPrompter(model, density="count")
    before = state_of(model)
    with torch.no_grad():
        wanted = prompter(x), prompter(other)
    with prompter.steer():
        seen = SIFTPatchInterrelation().patch_map(model, other, target=2)

    def calls():
        with torch.no_grad():
            plain = model(other)
        return plain, SIFTPatchInterrelation().patch_map(model, other, target=2)

    handle, made = within(model.get_submodule(place), calls)
    with torch.no_grad():
        found = prompter(x)
    handle.remove()
    torch.testing.assert_close(found, wanted[0])
    torch.testing.assert_close(made[0][0], wanted[1])
    torch.testing.assert_close(made[0][1], seen)
    assert state_of(model) == before


def test_what_a_cue_asks_is_answered_as_anywhere_else():
    """A cue asks a prompter, a record of it and the model itself: in the pass that it is for."""
    model, x = build("registers"), images()
    weights = torch.rand(len(x), 12, generator=torch.manual_seed(3))
    inner = AttentionPrompter(model, strength=1.5, density="count")

    def ask() -> list[Tensor]:
        with inner.steer(weights):
            led = model(x)
        layers = [one.attention() for one in record(inner, x, grad=False).sites]
        return [inner(x), led, model(x), *layers]

    class Cue:
        def bias(self, _: Tensor) -> Tensor:
            self.told = ask()
            return weights

    wanted, cue = ask(), Cue()
    assert not torch.equal(wanted[0], wanted[2])
    with AttentionPrompter(model, strength=0.7).steer(cue):
        model(x)
    assert all(torch.equal(one, other) for one, other in zip(wanted, cue.told, strict=True))


def test_an_explanation_where_another_one_failed():
    model, x = build("class-token"), images()
    wanted = SIFTPatchInterrelation().patch_map(model, x, target=1)
    before = state_of(model)

    def fails(*_):
        raise OSError("in the middle")

    handle = model.blocks[2].register_forward_hook(fails)
    with pytest.raises(OSError, match="in the middle"):
        SIFTPatchInterrelation().attribute(model, x, target=1)
    handle.remove()
    handle, _ = within(model.blocks[1], fails)
    with pytest.raises(OSError, match="in the middle"), AttentionPrompter(model).steer():
        model(x)
    handle.remove()
    assert torch.equal(SIFTPatchInterrelation().patch_map(model, x, target=1), wanted)
    assert state_of(model) == before


def test_a_plain_call_in_the_middle_of_a_record_is_refused_by_name():
    model, x = build("class-token"), images()
    expected = record(model, x, target=1)
    inside = []

    def hook(*_):
        if not inside:
            inside.append(None)
            try:
                model(x)
            finally:
                inside.clear()

    handle = model.blocks[1].register_forward_hook(hook)
    inside.append(None)
    again = record(model, x, target=1)
    assert torch.equal(again.sites[0].gradient, expected.sites[0].gradient)
    inside.clear()
    with pytest.raises(UnsupportedModelError, match="same attention calls in every forward"):
        record(model, x, target=1)
    handle.remove()
