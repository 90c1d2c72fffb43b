import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inference import Answer, Client, Embed, Inputs, Limits, Rerank, ServedModel, Terms
from inference.batcher import BatcherStatistics
from inference.checkpoint import read_checkpoint
from inference.demand import Demand
from inference.device_thread import DeviceStatistics
from inference.errors import DeviceLost, InvalidRequest, Overloaded, Unavailable, UnknownModel
from inference.request import Call, Result, Row, Shape, Timings
from inference.reuse import ReuseStatistics
from inference.scheduler import Refused, SchedulerStatistics, Work
from inference.task import abilities

pytestmark = pytest.mark.anyio


class FakeEngine:
    """Answers every request with [token count, first id, 0, ...]; records what was submitted."""

    def __init__(self, *models: ServedModel) -> None:
        self.models = {model.name: model for model in models}
        self.calls: list[Call] = []
        self.gates: list[Shape] = []
        self.expected: list[Shape | None] = []
        self.refused: Refused | None = None
        self.healthy = True

    def load(self) -> None:
        pass

    def start(self) -> None:
        pass

    async def submit(self, call: Call) -> Sequence[Result]:
        self.calls.append(call)
        return [
            Result(np.float32([len(item.tokens), item.tokens[0], 0, 0]), Timings(0.1 * i, 0.2))
            for i, item in enumerate(call.requests)
        ]

    def refusal(self, work: Work) -> Refused | None:
        self.gates.append(work.shape)
        self.expected.append(work.likely)
        return self.refused

    def statistics(self) -> BatcherStatistics:
        return BatcherStatistics(
            SchedulerStatistics(()),
            (DeviceStatistics("cpu", self.healthy, False, 0),),
            0,
            ReuseStatistics(0, 0, 0),
            Demand(0.0, 0.0, None),
        )

    async def drained(self) -> None:
        pass

    def abandon(self) -> int:
        return 0

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def served(tiny_paths: dict[str, Path]) -> ServedModel:
    tokenizer = read_checkpoint("tiny", tiny_paths["bert"]).tokenizer()
    return ServedModel(
        name="tiny",
        task="embed",
        abilities=abilities("embed", ()),
        revision=None,
        dtype="float32",
        device="cpu",
        packed=True,
        hidden_size=4,
        vocab_size=120,
        max_length=20,
        normalised=True,
        tokenizer=tokenizer,
    )


@pytest.fixture
def engine(served: ServedModel) -> FakeEngine:
    return FakeEngine(served)


async def started(engine: FakeEngine, *, limits: Limits | None = None, auto_truncate: bool = False) -> Client:
    client = Client(engine, limits or Limits(), auto_truncate=auto_truncate, clock=lambda: 100.0)  # type: ignore[arg-type]
    await client.start()
    return client


def ask(*items: object, **options: object) -> Embed:
    terms = {name: options.pop(name) for name in ("model", "truncation") if name in options}
    return Embed(Inputs(items), Terms(5.0, **terms), **options)  # type: ignore[arg-type]


async def test_texts_come_back_in_order_with_their_real_tokens(engine: FakeEngine) -> None:
    client = await started(engine)

    made = await client.embed(ask("w1 w2 w3", "w1"))

    assert [vector[0] for vector in made.items] == [5, 3]
    assert made.tokens == 8
    assert engine.calls[0].deadline == 105.0


async def test_token_ids_are_taken_as_given(engine: FakeEngine) -> None:
    client = await started(engine)

    await client.embed(ask([7, 8, 9], [10]))

    assert [item.tokens.tolist() for item in engine.calls[0].requests] == [[7, 8, 9], [10]]


async def test_the_only_model_needs_no_name(engine: FakeEngine, served: ServedModel) -> None:
    client = await started(engine)

    made = await client.embed(ask("w1"))

    assert made.model == served.name


async def test_of_several_models_one_must_be_named(served: ServedModel) -> None:
    client = await started(FakeEngine(served, replace(served, name="second")))

    with pytest.raises(InvalidRequest, match="which model is meant: tiny, second") as refused:
        await client.embed(ask("w1"))

    assert refused.value.field == "model"


@pytest.mark.parametrize("name", ["other", ""])
async def test_a_model_that_is_not_served_is_unknown(served: ServedModel, name: str) -> None:
    client = await started(FakeEngine(served, replace(served, name="second")))

    with pytest.raises(UnknownModel, match="tiny, second"):
        await client.embed(ask("w1", model=name))


async def test_the_only_model_of_a_task_needs_no_name(served: ServedModel) -> None:
    reranker = replace(served, name="ranker", task="rerank", abilities=abilities("rerank", ()))
    client = await started(FakeEngine(reranker, served))

    made = await client.embed(ask("w1"))

    assert made.model == "tiny"


async def test_what_a_model_cannot_do_is_said_with_what_it_can(engine: FakeEngine) -> None:
    client = await started(engine)

    with pytest.raises(InvalidRequest, match="does not rerank: tiny can embed, similarity"):
        await client.rerank(Rerank(Inputs([("w1", "w2")]), Terms(1.0)))

    assert engine.calls == []


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (ask(), "input"),
        (ask(""), "input[0]"),
        (ask("w1", ""), "input[1]"),
        (ask([1], []), "input[1]"),
        (ask("w1", *["w1"] * 8), "input"),
        (ask([5, 120]), "input[0]"),
        (ask([5], [5, -1]), "input[1]"),
        (ask([2**31]), "input[0]"),
        (ask("w1 " * 30), "input[0]"),
        (ask("w1", dimensions=0), "dimensions"),
        (ask("w1", dimensions=5), "dimensions"),
        (ask(*["w1 w2 w3 w4 w5 w6 w7 w8"] * 8), "input"),
    ],
)
async def test_what_cannot_be_served_names_its_field_and_is_not_queued(
    engine: FakeEngine, request_: Embed, field: str
) -> None:
    client = await started(engine, limits=Limits(max_items=8, max_waiting_tokens=75))

    with pytest.raises(InvalidRequest) as refused:
        await client.embed(request_)

    assert refused.value.field == field
    assert engine.calls == []


async def test_a_single_input_is_named_without_an_index(engine: FakeEngine) -> None:
    client = await started(engine)

    with pytest.raises(InvalidRequest) as refused:
        await client.embed(Embed(Inputs([""], "inputs", single=True), Terms(1.0)))

    assert refused.value.field == "inputs"


@pytest.mark.parametrize(("truncation", "auto_truncate"), [("end", False), ("none", True)])
@pytest.mark.parametrize("text", ["w1 " * 30, "w1 " * 3000], ids=["on the loop", "in a thread"])
async def test_long_texts_are_cut_when_asked_for(
    engine: FakeEngine, truncation: str, auto_truncate: bool, text: str
) -> None:
    client = await started(engine, auto_truncate=auto_truncate)

    made = await client.embed(ask(text, truncation=truncation))

    assert made.tokens == 20
    assert engine.calls[0].requests[0].tokens[-1] == 3


async def test_long_token_lists_are_cut_when_asked_for(engine: FakeEngine) -> None:
    client = await started(engine)

    made = await client.embed(ask(list(range(40)), truncation="end"))

    assert made.tokens == 20


async def test_fewer_dimensions_are_scaled_to_length_one_again(engine: FakeEngine) -> None:
    client = await started(engine)

    made = await client.embed(ask([4, 4, 4], dimensions=2))

    assert made.items[0].tolist() == pytest.approx([0.6, 0.8])


async def test_the_first_gate_refuses_before_tokenising(engine: FakeEngine) -> None:
    engine.refused = Refused("queue full", 3.0)
    client = await started(engine)

    with pytest.raises(Overloaded) as refused:
        await client.embed(ask("w1 " * 10_000))

    assert refused.value.retry_after_s == 3.0
    assert engine.calls == []


@pytest.mark.parametrize("text", ["w1 " * 5, "word " * 50, "🙂" * 10, "a"])
async def test_the_first_gate_never_asks_for_more_than_the_second(engine: FakeEngine, text: str) -> None:
    client = await started(engine)

    made = await client.embed(ask(text, text, truncation="end"))

    assert engine.gates[0].tokens <= made.tokens


async def test_the_first_gate_is_told_what_is_likely_and_refuses_by_half_of_it(engine: FakeEngine) -> None:
    client, text = await started(engine), "w1 " * 15

    for _ in range(200):
        made = await client.embed(ask(text))

    expected = engine.expected[-1]
    assert expected is not None
    assert expected.tokens == pytest.approx(made.tokens, rel=0.2)
    assert engine.gates[-1].tokens == pytest.approx(expected.tokens / 2, abs=1)


async def test_a_long_text_teaches_more_of_what_a_character_costs_than_a_short_one(engine: FakeEngine) -> None:
    client, text = await started(engine), "elephants " * 10

    for _ in range(200):
        await client.embed(ask("w"))
        made = await client.embed(ask(text))

    expected = engine.expected[-1]
    assert expected is not None
    assert expected.tokens == pytest.approx(made.tokens, rel=0.3)


async def test_token_ids_are_counted_and_not_guessed(engine: FakeEngine) -> None:
    client = await started(engine)

    await client.embed(ask([3, 4, 5, 6]))

    assert engine.gates == engine.expected == [Shape(4, 1, 16)]


async def test_the_timings_are_those_of_the_slowest_input(engine: FakeEngine) -> None:
    client = await started(engine)

    made = await client.embed(ask("w1", "w1", "w1"))

    assert (made.timings.queue_s, made.timings.device_s) == (0.2, 0.2)


async def test_before_the_start_and_after_the_stop_nothing_is_served(engine: FakeEngine) -> None:
    client = Client(engine, Limits())  # type: ignore[arg-type]

    with pytest.raises(Unavailable, match="starting"):
        await client.embed(ask("w1"))
    await client.start()
    await client.stop()
    with pytest.raises(Unavailable, match="draining"):
        await client.embed(ask("w1"))


async def test_a_lost_device_is_told_at_once(engine: FakeEngine) -> None:
    client = await started(engine)
    engine.healthy = False

    with pytest.raises(DeviceLost):
        await client.embed(ask("w1"))


async def test_many_calls_at_once_do_not_mix(engine: FakeEngine) -> None:
    client = await started(engine)

    made = await asyncio.gather(*(client.embed(ask("w1 " * (1 + i % 15))) for i in range(100)))

    assert [answer.tokens for answer in made] == [3 + i % 15 for i in range(100)]


async def test_a_long_list_is_tokenised_in_parts_between_which_others_have_theirs(engine: FakeEngine) -> None:
    client, ended = await started(engine), list[str]()

    async def embed(name: str, caller: str, count: int) -> Answer[Row]:
        texts = Inputs([f"w{1 + i % 9} w1" for i in range(count)])
        made = await client.embed(Embed(texts, Terms(5.0, caller=caller)))
        ended.append(name)
        return made

    long, short = await asyncio.gather(embed("long", "a", 1000), embed("short", "b", 65))

    assert ended == ["short", "long"]
    assert len(long.items) == 1000
    assert [row[1] for row in long.items[:65]] == [row[1] for row in short.items]


async def test_what_is_wrong_in_a_part_is_named_by_its_place_in_the_whole(engine: FakeEngine) -> None:
    client = await started(engine)
    lists = [[1, 2]] * 900 + [[1, 120]]

    with pytest.raises(InvalidRequest) as caught:
        await client.embed(Embed(Inputs([[1] * 3, *lists]), Terms(5.0)))

    assert caught.value.field == "input[901]"
    assert engine.calls == []
