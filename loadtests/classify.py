"""One text a call, to vLLM's /classify."""

from typing import Any

from loadtests.run import Load
from loadtests.scenario import Asked, Scenario, all_between, named


def _body(asked: Asked) -> dict[str, Any]:
    return named(asked, {"input": next(asked.texts)})


def _wrong(answer: Any) -> str | None:
    row = answer["data"][0]
    return all_between(row["probs"], 0.0, 1.0) or (None if row["num_classes"] == len(row["probs"]) else "no class")


class Classify(Load):
    """Ask which label fits."""

    scenario = Scenario("/classify", _body, _wrong)
