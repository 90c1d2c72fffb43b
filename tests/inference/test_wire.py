import itertools
import struct
from collections.abc import Iterator
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference import errors, wire
from inference.request import Call, Report, Request, Result, Timings
from tests.gateway.fakes import served

FLOATS = st.floats(-1e9, 1e9)
IDS = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=8).map(lambda ids: np.array(ids, np.int32))
REPORT = Report("m", 2, 16, 20, 0.01, 0.02)
BYTES = st.binary(max_size=200)


@st.composite
def calls(draw: st.DrawFn) -> Call:
    model, output = draw(st.text(max_size=20)), draw(st.sampled_from(["vector", "logits", "token vectors"]))
    inputs = draw(st.lists(st.tuples(IDS, st.booleans()), min_size=1, max_size=5))
    requests = [Request(model, ids, ids % 2 if typed else None, output) for ids, typed in inputs]
    return Call(requests, draw(FLOATS), draw(st.text(max_size=20)), draw(st.integers(-9, 9)))


@st.composite
def results(draw: st.DrawFn) -> list[Result]:
    shapes = draw(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=2), min_size=1, max_size=5))
    numbers = np.random.default_rng(0)
    return [
        Result(
            numbers.standard_normal(shape).astype(np.float32),
            Timings(draw(FLOATS), draw(FLOATS), draw(st.sampled_from([None, REPORT]))),
        )
        for shape in shapes
    ]


def crossed(message: msgspec.Struct, messages: object) -> object:
    """What the other side hears."""
    [body] = wire.Frames().feed(wire.framed(message))
    return msgspec.msgpack.decode(body, type=messages)


def bodies(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    """What comes of bytes that arrive in pieces."""
    frames = wire.Frames(most=1000)
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in itertools.pairwise(edges):
        yield from frames.feed(data[start:end])


@given(calls(), st.integers(0, 2**63))
def test_a_call_crosses_as_it_is(call: Call, number: int) -> None:
    heard = crossed(wire.ask_of(number, call), wire.FromWorker)

    assert isinstance(heard, wire.Ask)
    got = wire.call_of(heard)
    assert heard.number == number
    assert (got.deadline, got.caller, got.priority) == (call.deadline, call.caller, call.priority)
    for one, other in zip(got.requests, call.requests, strict=True):
        assert (one.model, one.output) == (other.model, other.output)
        np.testing.assert_array_equal(one.tokens, other.tokens)
        assert (one.types is None) == (other.types is None)
        if one.types is not None and other.types is not None:
            np.testing.assert_array_equal(one.types, other.types)


@given(results())
def test_results_cross_to_the_bit(sent: list[Result]) -> None:
    heard = crossed(wire.answer_of(7, sent), wire.FromEngine)

    assert isinstance(heard, wire.Answer)
    got = wire.results_of(heard)
    assert [result.timings for result in got] == [result.timings for result in sent]
    for one, other in zip(got, sent, strict=True):
        assert one.row.dtype == np.float32
        assert one.row.shape == other.row.shape
        assert one.row.tobytes() == other.row.tobytes()


def test_a_model_crosses_with_a_tokenizer_that_has_no_limit() -> None:
    model = replace(served(), tokenizer=replace(served().tokenizer, max_length=10**30))

    heard = crossed(wire.catalogue_of({"tiny": model}), wire.FromEngine)

    assert isinstance(heard, wire.Catalogue)
    got = heard.models["tiny"]
    assert got.tokenizer.json == model.tokenizer.json
    assert replace(got, tokenizer=model.tokenizer) == model


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidRequest("no", "input[3]"),
        errors.UnknownModel("which?", "model"),
        errors.Overloaded("queue full", 1.25),
        errors.Unavailable("draining"),
        errors.DeadlineExceeded("late"),
        errors.RuntimeFailed("row 3"),
        errors.OutOfMemory("large"),
        errors.DeviceLost("gone"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_crosses_with_what_the_caller_is_told(error: errors.InferenceError) -> None:
    heard = crossed(wire.failure_of(1, error), wire.FromEngine)

    assert isinstance(heard, wire.Failure)
    got = wire.error_of(heard)
    assert type(got) is type(error)
    assert vars(got) == vars(error)
    assert str(got) == str(error)


def test_an_error_that_nobody_expects_is_still_a_failure() -> None:
    failure = wire.failure_of(1, errors.CannotServe("why"))

    assert type(wire.error_of(failure)) is errors.RuntimeFailed


@given(st.lists(BYTES, max_size=6), st.lists(st.integers(0, 2000), max_size=6))
def test_frames_are_whole_however_they_arrive(sent: list[bytes], cuts: list[int]) -> None:
    data = b"".join(struct.pack("<I", len(body)) + body for body in sent)

    assert list(bodies(data, cuts)) == sent


@given(st.lists(BYTES, min_size=1, max_size=4), st.integers(1, 200), st.lists(st.integers(0, 2000), max_size=4))
def test_half_a_frame_is_not_taken_for_one(sent: list[bytes], missing: int, cuts: list[int]) -> None:
    last = struct.pack("<I", len(sent[-1])) + sent[-1]
    data = b"".join(struct.pack("<I", len(body)) + body for body in sent[:-1]) + last[: -min(missing, len(last))]

    assert list(bodies(data, cuts)) == sent[:-1]


@given(st.binary(max_size=400), st.lists(st.integers(0, 2000), max_size=4))
def test_garbage_is_refused_or_waited_for_and_nothing_else(data: bytes, cuts: list[int]) -> None:
    try:
        for body in bodies(data, cuts):
            message = msgspec.msgpack.decode(body, type=wire.FromWorker)
            if isinstance(message, wire.Ask):
                wire.call_of(message)
    except (wire.BadFrame, msgspec.DecodeError, UnicodeDecodeError):
        pass


def test_a_frame_that_claims_too_much_is_refused_before_it_is_held() -> None:
    with pytest.raises(wire.BadFrame, match="1001 bytes"):
        list(wire.Frames(most=1000).feed(struct.pack("<I", 1001)))


@pytest.mark.parametrize(
    "ask",
    [
        wire.Ask(1, "m", "vector", 1.0, "", 0, []),
        wire.Ask(1, "m", "vector", 1.0, "", 0, [(b"", None)]),
        wire.Ask(1, "m", "vector", 1.0, "", 0, [(b"abc", None)]),
        wire.Ask(1, "m", "vector", 1.0, "", 0, [(b"abcd", b"abcdefgh")]),
        wire.Ask(1, "m", "vector", float("nan"), "", 0, [(b"abcd", None)]),
    ],
    ids=["nothing", "no tokens", "part of a token", "more types than tokens", "no deadline"],
)
def test_a_call_that_cannot_be_is_refused(ask: wire.Ask) -> None:
    with pytest.raises(wire.BadFrame):
        wire.call_of(ask)


@pytest.mark.parametrize("shape", [[3], [2, 2], [-1, -1]])
def test_numbers_that_have_no_such_shape_are_refused(shape: list[int]) -> None:
    with pytest.raises(wire.BadFrame):
        wire.results_of(wire.Answer(1, [(b"12345678", shape, Timings(0.0, 0.0))]))


@pytest.mark.parametrize(("kind", "parts"), [("SystemExit", ["1"]), ("Overloaded", [])])
def test_an_error_of_another_kind_is_refused(kind: str, parts: list[str | float | None]) -> None:
    with pytest.raises(wire.BadFrame):
        wire.error_of(wire.Failure(1, kind, parts))
