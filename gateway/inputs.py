"""What many dialects call their input: one text, a list of texts, token ids, or a list of lists of token ids."""

from typing import Annotated, Any

import msgspec

from gateway.errors import HttpFault
from inference import Inputs

TokenId = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
Told = str | list[str | TokenId | list[TokenId]]


def read_inputs(told: str | list[Any], field: str) -> Inputs:
    """Tell which of the four it is, under the caller's own name for it; raises HttpFault for a mixture."""
    if isinstance(told, str):
        return Inputs([told], field, single=True)
    if told and isinstance(told[0], int):
        _refuse_mixture(told, int, field)
        return Inputs([told], field, single=True)
    if told:
        _refuse_mixture(told, type(told[0]), field)
    return Inputs(told, field)


def _refuse_mixture(items: list[Any], kind: type, field: str) -> None:
    if set(map(type, items)) == {kind}:
        return
    odd = next((index for index, item in enumerate(items) if not isinstance(item, kind)), None)
    if odd is not None:
        message = f"is of another kind than {field}[0]: give texts, token ids, or lists of token ids ({kind.__name__})"
        raise HttpFault(400, "invalid_request", message, f"{field}[{odd}]")
