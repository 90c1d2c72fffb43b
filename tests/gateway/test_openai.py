import base64
import json

import httpx2
import numpy as np
import pytest

from gateway.config import HttpConfig, Settings
from inference import EngineConfig, Limits
from tests.gateway.fakes import HIDDEN, MODEL, VOCABULARY, FakeEngine, ready, vector

pytestmark = pytest.mark.anyio

W0, W1 = 4, 5  # ids of the words `w0` and `w1`, which stand between [CLS] = 2 and [SEP] = 3


def shortened(text: str) -> str:
    return text if len(text) < 40 else f"{text[:40]}...{len(text)}"


def floats(answer) -> list[np.ndarray]:
    assert answer.status_code == 200, answer.text
    return [np.array(item["embedding"], np.float32) for item in answer.json()["data"]]


async def test_a_text_is_answered_with_its_vector() -> None:
    async with ready() as subject:
        answer = await subject.embed({"input": "w0 w1", "model": MODEL})

    body = answer.json()
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert body["object"] == "list"
    assert body["model"] == MODEL
    assert body["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    assert [(item["object"], item["index"]) for item in body["data"]] == [("embedding", 0)]
    np.testing.assert_array_equal(floats(answer)[0], vector([2, W0, W1, 3]))


async def test_texts_are_answered_in_their_order() -> None:
    async with ready() as subject:
        answer = await subject.embed({"input": ["w1", "w0 w0 w0", "w0"]})

    assert [item["index"] for item in answer.json()["data"]] == [0, 1, 2]
    assert answer.json()["usage"]["total_tokens"] == 3 + 5 + 3
    np.testing.assert_array_equal(floats(answer), [vector([2, *ids, 3]) for ids in ([W1], [W0] * 3, [W0])])


async def test_token_ids_are_taken_as_given() -> None:
    async with ready() as subject:
        answer = await subject.embed({"input": [W1, W0]})

    assert answer.json()["usage"]["prompt_tokens"] == 2
    np.testing.assert_array_equal(floats(answer), [vector([W1, W0])])


async def test_lists_of_token_ids_are_one_input_each() -> None:
    async with ready() as subject:
        answer = await subject.embed({"input": [[W1, W0], [VOCABULARY - 1], [0]]})

    np.testing.assert_array_equal(floats(answer), [vector([W1, W0]), vector([VOCABULARY - 1]), vector([0])])


async def test_base64_holds_the_same_bits_as_the_numbers() -> None:
    async with ready() as subject:
        numbers = await subject.embed({"input": ["w0", "w1"], "encoding_format": "float"})
        encoded = await subject.embed({"input": ["w0", "w1"], "encoding_format": "base64"})

    decoded = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in encoded.json()["data"]]
    np.testing.assert_array_equal(decoded, floats(numbers))


@pytest.mark.parametrize("dimensions", [1, 7, HIDDEN - 1])
async def test_fewer_dimensions_are_the_first_ones_scaled_to_length_one(dimensions: int) -> None:
    async with ready() as subject:
        answer = await subject.embed({"input": "w0", "dimensions": dimensions})

    (short,) = floats(answer)
    head = vector([2, W0, 3])[:dimensions]
    np.testing.assert_allclose(short, head / np.linalg.norm(head), rtol=1e-6)


async def test_all_dimensions_are_the_vector_itself() -> None:
    async with ready() as subject:
        answer = await subject.embed({"input": "w0", "dimensions": HIDDEN})

    np.testing.assert_array_equal(floats(answer), [vector([2, W0, 3])])


async def test_a_call_may_ask_to_be_truncated() -> None:
    async with ready() as subject:
        answer = await subject.embed({"input": "w0 " * 40, "truncate": True})

    assert answer.json()["usage"]["total_tokens"] == 16
    np.testing.assert_array_equal(floats(answer), [vector([2, *[W0] * 14, 3])])


async def test_a_call_may_ask_to_have_its_token_ids_truncated() -> None:
    async with ready() as subject:
        answer = await subject.embed({"input": [W0] * 40, "truncate": True})

    np.testing.assert_array_equal(floats(answer), [vector([W0] * 16)])


async def test_a_server_may_truncate_every_call() -> None:
    async with ready(settings=Settings(engine=EngineConfig(auto_truncate=True))) as subject:
        answer = await subject.embed({"input": "w0 " * 40})

    assert answer.json()["usage"]["total_tokens"] == 16


async def test_with_one_model_its_name_may_be_left_out() -> None:
    async with ready() as subject:
        answer = await subject.embed({"input": "w0"})

    assert answer.json()["model"] == MODEL


async def test_with_two_models_the_name_decides() -> None:
    async with ready(FakeEngine(names=("one", "two"))) as subject:
        named = await subject.embed({"input": "w0", "model": "two"})
        unnamed = await subject.embed({"input": "w0"})

    assert named.json()["model"] == "two"
    assert unnamed.status_code == 400
    assert unnamed.json()["error"]["param"] == "model"


async def test_fields_of_openai_without_a_meaning_here_are_accepted() -> None:
    async with ready() as subject:
        answer = await subject.embed({"input": "w0", "user": "somebody", "model": None})

    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["w0", ""]}, "input[1]"),
        ({"input": [[W0], []]}, "input[1]"),
        ({"input": [[]]}, "input[0]"),
        ({}, "input"),
        ({"input": None}, "input"),
        ({"input": 5}, "input"),
        ({"input": True}, "input"),
        ({"input": {"text": "w0"}}, "input"),
        ({"input": ["w0", None]}, "input[1]"),
        ({"input": ["w0", {}]}, "input[1]"),
        ({"input": ["w0", W0]}, "input[1]"),
        ({"input": [W0, "w0"]}, "input[1]"),
        ({"input": [W0, [W0]]}, "input[1]"),
        ({"input": [[W0], "w0"]}, "input[1]"),
        ({"input": [[W0], [[W0]]]}, "input[1][0]"),
        ({"input": [[W0], ["w0"]]}, "input[1][0]"),
        ({"input": [True]}, "input[0]"),
        ({"input": [[W0, False]]}, "input[0][1]"),
        ({"input": [1.0]}, "input[0]"),
        ({"input": [-1]}, "input[0]"),
        ({"input": [[W0], [-1]]}, "input[1][0]"),
        ({"input": [VOCABULARY]}, "input"),
        ({"input": [[W0], [VOCABULARY]]}, "input[1]"),
        ({"input": [2**31 - 1]}, "input"),
        ({"input": [2**31]}, "input[0]"),
        ({"input": [2**64]}, "input[0]"),
        ({"input": [10**400]}, "input[0]"),
        ({"input": "w0 " * 15}, "input"),
        ({"input": ["w0", "w0 " * 15]}, "input[1]"),
        ({"input": [W0] * 17}, "input"),
        ({"input": "w0 " * (1 << 18)}, "input"),
        ({"input": ["w0"] * 2049}, "input"),
        ({"input": [[W0]] * 2049}, "input"),
        ({"input": "w0", "dimensions": 0}, "dimensions"),
        ({"input": "w0", "dimensions": -1}, "dimensions"),
        ({"input": "w0", "dimensions": HIDDEN + 1}, "dimensions"),
        ({"input": "w0", "dimensions": 10**400}, "dimensions"),
        ({"input": "w0", "dimensions": True}, "dimensions"),
        ({"input": "w0", "dimensions": 1.0}, "dimensions"),
        ({"input": "w0", "dimensions": "8"}, "dimensions"),
        ({"input": "w0", "model": 5}, "model"),
        ({"input": "w0", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "w0", "encoding_format": None}, "encoding_format"),
        ({"input": "w0", "truncate": "yes"}, "truncate"),
        ({"input": "w0", "temperature": 1}, "temperature"),
        ({"input": "w0", "x" * 100_000: 1}, None),
        (["w0"], None),
        ("w0", None),
    ],
    ids=lambda value: shortened(json.dumps(value)),
)
async def test_a_mistake_is_named_by_its_field_and_nothing_is_queued(body: object, field: str | None) -> None:
    async with ready() as subject:
        answer = await subject.embed(body)

    error = answer.json()["error"]
    assert answer.status_code == 400
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "invalid_request", field)
    assert error["message"].startswith(f"{field}: " if field else "")
    assert len(error["message"]) < 1000
    assert subject.engine.submitted == []


@pytest.mark.parametrize("name", ["nobody", "", "TINY", "x" * 10_000], ids=len)
async def test_a_model_that_is_not_served_is_not_found_and_nothing_is_queued(name: str) -> None:
    async with ready() as subject:
        answer = await subject.embed({"input": "w0", "model": name})

    error = answer.json()["error"]
    assert answer.status_code == 404
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "model_not_found", "model")
    assert len(error["message"]) < 1000
    assert subject.engine.submitted == []


async def test_a_text_of_a_megabyte_that_is_one_token_is_answered() -> None:
    async with ready() as subject:
        answer = await subject.embed({"input": "x" * (1 << 20)})

    assert answer.json()["usage"]["total_tokens"] == 3


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b" ",
        b"{",
        b'{"input": "w0"',
        b'{"input": "w0"} {"input": "w0"}',
        b"{'input': 'w0'}",
        b'{"input": "w0",}',
        b'{"input": NaN}',
        b'{"input": "w0", "dimensions": Infinity}',
        b'{"input": [1e999]}',
        b'{"input": "w\xff"}',
        b'{"input": ["w0", "\xed\xa0\x80"]}',
        b'{"input": "\\ud800"}',
        b'{"input": "\\ud800 and more"}',
        b'{"input": "\\udc00\\ud800"}',
        b'{"input": "a\x00b"}',
        b'\xef\xbb\xbf{"input": "w0"}',
        '{"input": "w0"}'.encode("utf-16"),
        '{"input": "w0"}'.encode("utf-16-le"),
        '{"input": "w0"}'.encode("utf-32"),
        b"[" * 100_000,
        b'{"input": ' + b"[" * 100_000,
        b'{"input": [' + b"[" * 100_000 + b"]" * 100_000 + b"]}",
        b'{"input":' * 100_000,
        b'{"user": ' + b'{"a":' * 100_000,
        b'{"input": [true], garbage',
        b'{"input": [true], "input": 5}',
        b'{"input": ' + b"9" * 100_000 + b"}",
        b"\x1f\x8b\x08\x00",
    ],
    ids=lambda raw: shortened(repr(raw)),
)
async def test_what_is_not_json_in_utf_8_is_refused_and_nothing_is_queued(raw: bytes) -> None:
    async with ready() as subject:
        answer = await subject.http.post("/v1/embeddings", content=raw, headers={"content-type": "application/json"})

    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert subject.engine.submitted == []


@pytest.mark.parametrize(
    "raw",
    [
        b'{"input": "w1", "input": "w0"}',
        b'{"input": "w0", "truncate": true, "truncate": false}',
        b' \r\n\t{"input":"w0"}\n',
        b'{"\\u0069nput": "\\u0077\\u0030"}',
    ],
)
async def test_odd_but_valid_json_means_what_json_says(raw: bytes) -> None:
    async with ready() as subject:
        answer = await subject.http.post("/v1/embeddings", content=raw, headers={"content-type": "application/json"})

    np.testing.assert_array_equal(floats(answer), [vector([2, W0, 3])])


async def test_a_null_character_in_a_text_is_a_character() -> None:
    async with ready() as subject:
        answer = await subject.embed({"input": "w0 \x00 w0"})

    assert answer.status_code == 200


async def test_as_many_items_as_the_limit_are_taken_and_one_more_is_not() -> None:
    async with ready(FakeEngine(limits=Limits(max_batch_tokens=64, max_items=3))) as subject:
        fits = await subject.embed({"input": ["w0"] * 3})
        exceeds = await subject.embed({"input": ["w0"] * 4})

    assert fits.status_code == 200
    assert exceeds.status_code == 400
    assert "at most 3" in exceeds.json()["error"]["message"]


async def test_the_models_are_listed() -> None:
    async with ready(FakeEngine(names=("one", "two"))) as subject:
        answer = await subject.http.get("/v1/models")

    body = answer.json()
    assert body["object"] == "list"
    assert [(item["id"], item["object"], item["owned_by"]) for item in body["data"]] == [
        ("one", "model", "headrace"),
        ("two", "model", "headrace"),
    ]
    assert all(isinstance(item["created"], int) for item in body["data"])


@pytest.mark.parametrize(("told", "priority"), [(None, 0), ("0", 0), ("9", 9), ("-9", -9), ("-0", 0)])
async def test_the_priority_is_what_the_header_says(told: str | None, priority: int) -> None:
    async with ready(settings=Settings(http=HttpConfig(max_priority=9))) as subject:
        headers = {} if told is None else {"x-request-priority": told}
        await subject.embed({"input": "w0"}, **headers)

    assert subject.engine.submitted[0].priority == priority


async def test_nobody_gets_a_higher_class_than_the_server_gives() -> None:
    async with ready() as subject:
        await subject.embed({"input": "w0"}, **{"x-request-priority": "9"})

    assert subject.engine.submitted[0].priority == 0


@pytest.mark.parametrize("told", ["", "10", "+1", "high", "1.0", "--1", "٣", "1e0"])
async def test_a_priority_that_is_none_names_the_header(told: str) -> None:
    async with ready() as subject:
        answer = await subject.http.post(
            "/v1/embeddings", json={"input": "w0"}, headers={"x-request-priority": told.encode()}
        )

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "X-Request-Priority")
    assert subject.engine.submitted == []


async def caller_of(address: str) -> str:
    async with ready() as subject:
        transport = httpx2.ASGITransport(subject.app, client=(address, 1))
        async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as http:
            await http.post("/v1/embeddings", json={"input": "w0"})
    return subject.engine.submitted[0].caller


async def test_callers_are_told_apart_by_their_address() -> None:
    assert [await caller_of(address) for address in ("10.0.0.1", "10.0.0.2", "")] == ["10.0.0.1", "10.0.0.2", ""]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
async def test_callers_of_one_ipv6_network_are_one_caller(one: str, other: str, same: bool) -> None:
    assert (await caller_of(one) == await caller_of(other)) is same
