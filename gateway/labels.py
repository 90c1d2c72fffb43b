"""Every label of a text with its score, the best first, as several dialects tell them."""

from typing import Any

from inference import Scores, ranked


def scored_labels(item: Scores, *, raw: bool) -> list[dict[str, Any]]:
    """Return the labels of one text; `raw`: with its logits."""
    scores = item.logits if raw else item.scores
    return [{"score": scores[index], "label": item.labels[index]} for index in ranked(scores)]
