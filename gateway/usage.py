"""What a call cost, as OpenAI's dialect and those after it tell it."""

import msgspec


class Usage(msgspec.Struct, kw_only=True):
    """Real tokens, special tokens included, padding left out."""

    prompt_tokens: int
    total_tokens: int


def usage(tokens: int) -> dict[str, int]:
    """Return it as the answer has it."""
    return {"prompt_tokens": tokens, "total_tokens": tokens}
