"""One text and three labels a call, to Hugging Face's pipeline for zero-shot classification; needs --model."""

from typing import Any

from loadtests.run import Load
from loadtests.scenario import Asked, Scenario, all_between

_LABELS = ("language", "weather", "sports")


def _body(asked: Asked) -> dict[str, Any]:
    return {"inputs": next(asked.texts), "parameters": {"candidate_labels": list(_LABELS)}}


def _wrong(answer: Any) -> str | None:
    if sorted(row["label"] for row in answer) != sorted(_LABELS):
        return "not every label once"
    return all_between([row["score"] for row in answer], 0.0, 1.0)


class ZeroShot(Load):
    """Ask which of the caller's own labels fits."""

    scenario = Scenario("/models/{model}/pipeline/zero-shot-classification", _body, _wrong)
