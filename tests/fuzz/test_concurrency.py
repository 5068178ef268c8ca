"""One model, used by many at once: threads, asyncio tasks, and hooks in the middle of a pass."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from semattn import AttentionPrompter, SIFTPatchInterrelation, record
from semattn.attention.scope import is_tracing
from semattn.errors import UnsupportedModelError
from semattn.explain import explainers
from tests.models import build, images, state_of

THREADS, ROUNDS = 4, 3
CHEAP = {"integrated-gradients": {"n_steps": 3}, "smooth-grad": {"nt_samples": 2}}


def explainer(name: str):
    return explainers[name](**CHEAP.get(name, {}))


def at_once(calls):
    """Run the calls at the same time, each in a separate thread, and return the results."""
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
    expected = [explainer(name).patch_map(model, x, target=1) for x in batches]

    def work(number: int) -> list[Tensor]:
        own_explainer = explainer(name)
        return [own_explainer.patch_map(model, batches[number], target=1) for _ in range(ROUNDS)]

    actual = at_once([lambda n=n: work(n) for n in range(THREADS)])
    for expected_map, maps in zip(expected, actual, strict=True):
        assert all(torch.equal(expected_map, actual_map) for actual_map in maps)
    assert state_of(model) == before


def test_prompters_explainers_and_plain_calls_at_once():
    model = build("class-token")
    batches = [images(seed=seed) for seed in range(6)]
    weights = torch.rand(6, 12, generator=torch.manual_seed(0))
    before = state_of(model)

    def work(number: int) -> list[Tensor]:
        x, results = batches[number], []
        prompter = AttentionPrompter(model, strength=float(number), density="count")
        for _ in range(ROUNDS):
            with torch.no_grad(), prompter.steer(weights[number]):
                results.append(model(x))
                results.append(record(model, x, grad=False).sites[0].attention())
            results.append(SIFTPatchInterrelation().patch_map(prompter, x, target=0))
            results.append(model(x).detach())
        return results

    expected = [work(number) for number in range(6)]
    actual = at_once([lambda n=n: work(n) for n in range(6)])
    for expected_results, actual_results in zip(expected, actual, strict=True):
        assert all(map(torch.equal, expected_results, actual_results))
    assert not torch.equal(expected[1][0], expected[1][-1])
    assert state_of(model) == before


def test_asyncio_tasks_of_one_thread_do_not_see_each_other():
    model, x = build("class-token"), images()
    weights = torch.rand(3, 12, generator=torch.manual_seed(0))
    prompter = AttentionPrompter(model)
    before = state_of(model)

    def answers(number: int | None) -> list[Tensor]:
        attention = record(model, x, grad=False).sites[0].attention()
        return [model(x), attention, SIFTPatchInterrelation().patch_map(model, x, target=number)]

    expected = []
    for number in range(3):
        with prompter.steer(weights[number]):
            expected.append(answers(number))
    plain = answers(None)

    async def steered(number: int) -> list[Tensor]:
        with prompter.steer(weights[number]):
            for _ in range(3):
                await asyncio.sleep(0)  # the others open theirs, and ask
                results = answers(number)
            return results

    async def bare() -> list[Tensor]:
        for _ in range(3):
            await asyncio.sleep(0)
            results = answers(None)
        return results

    async def everything():
        return await asyncio.gather(*(steered(number) for number in range(3)), bare())

    for expected_results, actual_results in zip(
        [*expected, plain], asyncio.run(everything()), strict=True
    ):
        assert all(map(torch.equal, expected_results, actual_results))
    assert not torch.equal(expected[0][0], plain[0])
    assert state_of(model) == before


def within(module: nn.Module, call):
    """Add a hook that runs `call` once, during the pass of the module that gives the result."""
    results = []

    def hook(*_):
        if not results and not is_tracing():
            results.append(None)
            results[0] = call()

    return module.register_forward_hook(hook), results


@pytest.mark.parametrize("name", ["sift-patch-interrelation", "grad-cam", "legrad", "occlusion"])
@pytest.mark.parametrize("place", ["blocks.1", "blocks.1.attn.qkv", "patch_embed.proj"])
@pytest.mark.parametrize("outer", ["sift-patch-interrelation", "grad-cam", "legrad"])
def test_an_explanation_in_the_middle_of_another(outer, name, place):
    model, x, other = build("class-token"), images(), images(seed=5)
    before = state_of(model)
    expected = explainer(outer).patch_map(model, x, target=1)
    inner = explainer(name).patch_map(model, other, target=2)
    handle, inner_results = within(
        model.get_submodule(place), lambda: explainer(name).patch_map(model, other, target=2)
    )
    actual = explainer(outer).patch_map(model, x, target=1)
    handle.remove()
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(inner_results[0], inner)
    assert state_of(model) == before


@pytest.mark.parametrize("place", ["blocks.1", "blocks.1.attn.qkv"])
def test_in_a_prompted_pass_every_call_of_the_model_is_prompted(place):
    model, x, other = build("class-token"), images(), images(3, seed=5)
    prompter = AttentionPrompter(model, density="count")
    before = state_of(model)
    with torch.no_grad():
        expected = prompter(x), prompter(other)
    with prompter.steer():
        expected_map = SIFTPatchInterrelation().patch_map(model, other, target=2)

    def calls():
        with torch.no_grad():
            plain = model(other)
        return plain, SIFTPatchInterrelation().patch_map(model, other, target=2)

    handle, inner_results = within(model.get_submodule(place), calls)
    with torch.no_grad():
        actual = prompter(x)
    handle.remove()
    torch.testing.assert_close(actual, expected[0])
    torch.testing.assert_close(inner_results[0][0], expected[1])
    torch.testing.assert_close(inner_results[0][1], expected_map)
    assert state_of(model) == before


def test_what_a_cue_asks_is_answered_as_anywhere_else():
    """A cue calls a prompter, a record of it and the model, during the prompted pass."""
    model, x = build("registers"), images()
    weights = torch.rand(len(x), 12, generator=torch.manual_seed(3))
    inner = AttentionPrompter(model, strength=1.5, density="count")

    def ask() -> list[Tensor]:
        with inner.steer(weights):
            led = model(x)
        layers = [site.attention() for site in record(inner, x, grad=False).sites]
        return [inner(x), led, model(x), *layers]

    class Cue:
        def bias(self, _: Tensor) -> Tensor:
            self.results = ask()
            return weights

    expected, cue = ask(), Cue()
    assert not torch.equal(expected[0], expected[2])
    with AttentionPrompter(model, strength=0.7).steer(cue):
        model(x)
    assert all(torch.equal(*pair) for pair in zip(expected, cue.results, strict=True))


def test_an_explanation_where_another_one_failed():
    model, x = build("class-token"), images()
    expected = SIFTPatchInterrelation().patch_map(model, x, target=1)
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
    assert torch.equal(SIFTPatchInterrelation().patch_map(model, x, target=1), expected)
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
