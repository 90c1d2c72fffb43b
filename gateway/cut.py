"""The length to which Cohere's callers may have texts cut: nothing but what the model reads."""

from typing import TYPE_CHECKING

from gateway.errors import HttpFault

if TYPE_CHECKING:
    from inference import ServedModel  # its home imports torch


def check_cut(most: int | None, field: str, model: "ServedModel") -> None:
    """Refuse a length below the model's; raises HttpFault."""
    if most is not None and most < model.max_length:
        message = f"{model.name} reads up to {model.max_length} tokens: it cannot be told to read fewer"
        raise HttpFault(400, "invalid_request", message, field)
