"""A query and 8 documents a call, to Jina's /v1/rerank."""

from typing import Any

from loadtests.run import Load
from loadtests.scenario import Asked, Scenario, named

_DOCUMENTS = 8


def _body(asked: Asked) -> dict[str, Any]:
    query = " ".join(next(asked.texts).split()[:8])
    documents = [next(asked.texts) for _ in range(_DOCUMENTS)]
    return named(asked, {"query": query, "documents": documents, "return_documents": False})


def _wrong(answer: Any) -> str | None:
    ranks = answer["results"]
    if sorted(rank["index"] for rank in ranks) != list(range(_DOCUMENTS)):
        return "not every document once"
    scores = [rank["relevance_score"] for rank in ranks]
    return None if scores == sorted(scores, reverse=True) else "not the best first"


class Rerank(Load):
    """Ask which documents answer a query."""

    scenario = Scenario("/v1/rerank", _body, _wrong)
