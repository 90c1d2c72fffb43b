"""One text a call, to Hugging Face's pipeline for token classification; needs --model."""

from typing import Any

from loadtests.run import Load
from loadtests.scenario import Asked, Scenario


def _body(asked: Asked) -> dict[str, Any]:
    return {"inputs": next(asked.texts), "parameters": {"aggregation_strategy": "simple"}}


def _wrong(answer: Any) -> str | None:
    entities = answer[0] if answer and isinstance(answer[0], list) else answer
    ends = [(entity["start"], entity["end"], entity["score"]) for entity in entities]
    return None if all(start < end and 0 <= score <= 1 for start, end, score in ends) else "an entity is nowhere"


class TokenClassify(Load):
    """Ask for the entities of a text."""

    scenario = Scenario("/models/{model}/pipeline/token-classification", _body, _wrong)
