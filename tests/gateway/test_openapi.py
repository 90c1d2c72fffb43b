import msgspec
import pytest
from starlette.routing import Route

from gateway import cohere, openai, rerank
from gateway.dialect import Spoken
from gateway.errors import Fault
from gateway.openapi import document


def spoken(dialect, *paths: str, below: str = "") -> Spoken:
    return Spoken(dialect, [Route(path, print, methods=["POST"]) for path in paths], below)


def test_a_route_has_the_statuses_and_the_error_of_its_dialect() -> None:
    made = document([spoken(cohere, "/v2/embed")])

    operation = made["paths"]["/v2/embed"]["post"]
    assert [int(status) for status in operation["responses"]] == [200, *cohere.STATUSES]
    error = operation["responses"]["400"]["content"]["application/json"]["schema"]["$ref"]
    assert made["components"]["schemas"][error.rpartition("/")[2]]["required"] == ["message"]


def test_what_is_not_routed_is_not_described() -> None:
    made = document([spoken(openai, "/v1/embeddings")])

    assert made["paths"].keys() == {"/v1/embeddings"}


def test_paths_begin_with_what_a_dialect_is_below() -> None:
    made = document([spoken(cohere, "/x/v2/embed", below="/x")])

    assert made["paths"].keys() == {"/x/v2/embed"}


def test_types_of_one_name_are_kept_apart() -> None:
    made = document([spoken(cohere, "/v2/embed"), spoken(rerank, "/v1/rerank")])

    errors = [name for name in made["components"]["schemas"] if name.endswith("ErrorAnswer")]
    assert sorted(errors) == ["gateway.cohere.ErrorAnswer", "gateway.rerank.ErrorAnswer"]


@pytest.mark.parametrize("dialect", [cohere, openai, rerank])
def test_the_error_is_what_is_drawn(dialect) -> None:
    drawn = dialect.render(Fault(400, "invalid_request", "wrong", "field"))

    msgspec.json.decode(drawn.body, type=dialect.ErrorAnswer)
