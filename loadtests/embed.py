"""One text a call, to OpenAI's /v1/embeddings: any server of it can be judged."""

from typing import Any

from loadtests.run import Load
from loadtests.scenario import Asked, Scenario, named


def _body(asked: Asked) -> dict[str, Any]:
    return named(asked, {"input": next(asked.texts), "encoding_format": "float"})


def _wrong(answer: Any) -> str | None:
    vector = answer["data"][0]["embedding"]
    return None if len(vector) > 1 and any(vector) else "no vector"


class Embed(Load):
    """Ask for vectors."""

    scenario = Scenario("/v1/embeddings", _body, _wrong)
