"""The form in which a language model is asked to judge a pair of texts."""

from typing import Final

# What Qwen3 rerankers were trained on: a judge who answers yes or no.
_JUDGE: Final = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n"
    "<Query>: {}\n<Document>: {}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)


def question(query: str, document: str) -> str:
    """Return the one text that such a model reads for a pair."""
    return _JUDGE.format(query, document)
