import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inference import CannotServe, Client, Embed, Inputs, Limits, ModelSource, Terms, Unavailable, UnknownModel
from inference.config import ControlConfig
from tests.changing import ChangingEngine, folder
from tests.gateway.fakes import MODEL, FakeDevice

pytestmark = pytest.mark.anyio

OTHER = ModelSource(MODEL, "hub/other")


@asynccontextmanager
async def serving(engine: ChangingEngine) -> AsyncIterator[Client]:
    client = Client(engine, engine.limits)  # type: ignore[arg-type]
    await client.start()
    try:
        yield client
    finally:
        client.repository.close()
        engine.may_prepare.set()
        for device in engine.devices.values():
            device.gate.set()
        await client.stop()


async def version(client: Client, text: str = "w1", model: str | None = None) -> float:
    """Which version answers: its vectors are as long as its number."""
    answer = await client.embed(Embed(Inputs([text], "input"), Terms(30.0, model)))
    return round(float(np.linalg.norm(answer.items[0])), 3)


async def entered(device: FakeDevice) -> None:
    assert await asyncio.to_thread(device.entered.wait, 30)


def told(client: Client, state: str) -> bool:
    return client.repository.served[MODEL].model.version == 2 if state == "replaced" else MODEL not in client.models


async def until(client: Client, state: str) -> None:
    """Let the loop run until a change has come so far."""
    while not told(client, state):
        await asyncio.sleep(0)


async def test_calls_that_were_taken_end_on_the_old_version_and_later_ones_run_on_the_new() -> None:
    engine = ChangingEngine()
    async with serving(engine) as client:
        engine.device.gate.clear()
        running = asyncio.ensure_future(version(client, "w1"))
        await entered(engine.device)
        waiting = asyncio.ensure_future(version(client, "w2"))
        await asyncio.sleep(0)

        load = asyncio.ensure_future(client.repository.load(MODEL, OTHER))
        await until(client, "replaced")
        queued_behind = asyncio.ensure_future(version(client, "w3"))  # the device is one: it waits for the old batch
        await asyncio.sleep(0)
        loaded_early = load.done()
        engine.device.gate.set()

        assert [await running, await waiting, await queued_behind] == [1.0, 1.0, 2.0]
        assert (await load).version == 2
        assert not loaded_early
        assert engine.retired == [MODEL]


async def test_a_call_that_is_still_tokenised_keeps_its_version() -> None:
    """Long texts are tokenised in a thread; their token ids mean nothing to another tokenizer."""
    engine = ChangingEngine()
    async with serving(engine) as client:
        long = ["w1 " * 10] * 100
        call = asyncio.ensure_future(client.embed(Embed(Inputs(long, "input"), Terms(30.0, None))))
        await asyncio.sleep(0)
        submitted_before = len(engine.submitted)
        load = asyncio.ensure_future(client.repository.load(MODEL, OTHER))

        answer = await call
        await load

        assert submitted_before == 0
        assert {round(float(np.linalg.norm(row)), 3) for row in answer.items} == {1.0}


async def test_a_replaced_version_is_held_by_nothing() -> None:
    engine = ChangingEngine()
    async with serving(engine) as client:
        await client.repository.load(MODEL, OTHER)
        await version(client)
        second = weakref.ref(engine.devices[f"{MODEL}@2"])
        await client.repository.load(MODEL, OTHER)
        await version(client)
        gc.collect()

        assert second() is None


async def test_an_answer_that_was_kept_is_not_given_for_a_newer_version() -> None:
    engine = ChangingEngine()
    engine.limits = Limits(max_batch_tokens=64, cache_bytes=1 << 20)
    async with serving(engine) as client:
        before = [await version(client), await version(client)]
        await client.repository.load(MODEL, OTHER)

        assert (before, await version(client)) == ([1.0, 1.0], 2.0)


async def test_a_load_that_fails_leaves_the_old_version_serving_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    engine = ChangingEngine()
    engine.broken = {OTHER.location}
    async with serving(engine) as client:
        with pytest.raises(CannotServe, match="hub/other is broken"):
            await client.repository.load(MODEL, OTHER)
        [state] = await client.repository.index()

        assert await version(client) == 1.0
        assert (state.version, state.state) == (1, "READY")
        assert "hub/other is broken" in state.reason
        assert "hub/other is broken" in caplog.text
        assert engine.retired == []


async def test_where_two_versions_do_not_fit_the_old_one_answers_what_it_took_and_goes_first() -> None:
    engine = ChangingEngine()
    engine.needed, engine.free = 150, 60  # the old one holds 100
    async with serving(engine) as client:
        engine.device.gate.clear()
        running = asyncio.ensure_future(version(client))
        await entered(engine.device)

        load = asyncio.ensure_future(client.repository.load(MODEL, OTHER))
        await until(client, "gone")
        with pytest.raises(Unavailable, match="being loaded"):
            await version(client)
        with pytest.raises(Unavailable, match="being loaded"):
            await version(client, model=MODEL)
        prepared_early = engine.preparing.is_set()
        engine.device.gate.set()

        assert await running == 1.0
        assert (await load).state == "READY"
        assert not prepared_early
        assert await version(client) == 2.0


async def test_where_the_old_one_went_first_it_comes_back_if_the_new_one_fails() -> None:
    engine = ChangingEngine()
    engine.needed, engine.free = 150, 60
    engine.broken = {OTHER.location}
    async with serving(engine) as client:
        with pytest.raises(CannotServe, match="hub/other is broken"):
            await client.repository.load(MODEL, OTHER)
        [state] = await client.repository.index()

        assert await version(client) == 2.0  # a load of its own
        assert engine.opened[-1] == engine.config.models[0]
        assert (state.version, state.state) == (2, "READY")
        assert "hub/other is broken" in state.reason


async def test_a_model_that_does_not_fit_at_all_is_refused_before_the_old_one_goes() -> None:
    engine = ChangingEngine()
    engine.needed, engine.free = 161, 60
    async with serving(engine) as client:
        with pytest.raises(CannotServe, match="it takes about 161 bytes, and 60 are free"):
            await client.repository.load(MODEL, OTHER)

        assert await version(client) == 1.0
        assert not engine.preparing.is_set()


async def test_an_unload_answers_what_was_taken_and_a_load_brings_the_model_back() -> None:
    engine = ChangingEngine()
    async with serving(engine) as client:
        engine.device.gate.clear()
        running = asyncio.ensure_future(version(client))
        await entered(engine.device)
        unload = asyncio.ensure_future(client.repository.unload(MODEL))
        await until(client, "gone")
        engine.device.gate.set()

        assert await running == 1.0
        assert (await unload).state == "UNAVAILABLE"
        for name in (None, MODEL):
            with pytest.raises(UnknownModel, match=r"no model is served|there is: none"):
                await version(client, model=name)
        with pytest.raises(UnknownModel):
            await client.repository.unload(MODEL)
        assert [(state.state, state.reason) for state in await client.repository.index()] == [
            ("UNAVAILABLE", "unloaded")
        ]
        await client.repository.load(MODEL)
        assert await version(client) == 2.0


async def test_a_load_without_a_source_takes_the_one_of_before_else_the_folder_of_that_name(tmp_path: Path) -> None:
    place = folder(tmp_path, "mine")
    engine = ChangingEngine()
    engine.config = replace(engine.config, control=ControlConfig("explicit", tmp_path))
    async with serving(engine) as client:
        await client.repository.load(MODEL)
        await client.repository.load(MODEL, OTHER)
        await client.repository.load(MODEL)
        await client.repository.load("mine")
        with pytest.raises(UnknownModel, match="'nobody'"):
            await client.repository.load("nobody")

        assert engine.opened == [engine.config.models[0], OTHER, OTHER, ModelSource("mine", str(place))]
        assert [state.name for state in await client.repository.index()] == [MODEL, "mine"]


async def test_what_could_be_loaded_is_in_the_index(tmp_path: Path) -> None:
    folder(tmp_path, "mine")
    engine = ChangingEngine()
    engine.config = replace(engine.config, control=ControlConfig("explicit", tmp_path))
    async with serving(engine) as client:
        states = await client.repository.index()

        assert [(state.name, state.version, state.state) for state in states] == [
            (MODEL, 1, "READY"),
            ("mine", 0, "UNAVAILABLE"),
        ]


async def test_who_asks_for_a_load_may_go_and_it_is_made_all_the_same() -> None:
    engine = ChangingEngine()
    engine.may_prepare.clear()
    async with serving(engine) as client:
        load = asyncio.ensure_future(client.repository.load(MODEL, OTHER))
        assert await asyncio.to_thread(engine.preparing.wait, 30)
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
        engine.may_prepare.set()

        await until(client, "replaced")
        assert await version(client) == 2.0


async def test_a_drain_gives_up_a_load_and_refuses_others() -> None:
    engine = ChangingEngine()
    engine.may_prepare.clear()
    async with serving(engine) as client:
        load = asyncio.ensure_future(client.repository.load(MODEL, OTHER))
        assert await asyncio.to_thread(engine.preparing.wait, 30)

        client.repository.close()

        for refused in (load, client.repository.load(MODEL, OTHER)):
            with pytest.raises(Unavailable, match="draining"):
                await refused
        assert await version(client) == 1.0


async def test_every_model_is_made_ready_on_one_thread_since_torch_keeps_memory_in_each() -> None:
    engine = ChangingEngine()
    async with serving(engine) as client:
        for _ in range(3):
            await client.repository.load(MODEL, OTHER)

    assert engine.threads == ["load_0"] * 3


async def test_twenty_replacements_under_steady_calls_lose_none_and_mix_none() -> None:
    engine = ChangingEngine()
    versions: list[float] = []
    async with serving(engine) as client:
        done = asyncio.Event()

        async def caller(number: int) -> None:
            mine: list[float] = []
            while not done.is_set():
                mine.append(await version(client, f"w{number} w{len(mine) % 90}"))
            assert mine == sorted(mine)  # a caller never sees an older version again
            versions.extend(mine)

        callers = [asyncio.ensure_future(caller(number)) for number in range(8)]
        for _ in range(20):
            await client.repository.load(MODEL, OTHER)
        done.set()
        await asyncio.gather(*callers)

        assert set(versions) <= {float(number) for number in range(1, 22)}
        assert await version(client) == 21.0
        assert list(engine.devices) == [f"{MODEL}@21"]
        [lane] = engine.statistics().scheduler.lanes  # type: ignore[union-attr]
        assert (lane.model, lane.entries) == (MODEL, 0)
