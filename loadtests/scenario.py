"""What is asked, and what an answer must look like: the part of a load test that differs between tasks."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

import orjson


class Texts(Protocol):
    """Real English, without end."""

    def __next__(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """What a scenario may use to make a call."""

    model: str  # empty: the server's own
    texts: Texts
    chance: random.Random


@dataclass(frozen=True, slots=True)
class Scenario:
    """
    One kind of call.

    `route` is its path, with `{model}` where the model's name goes. `body` makes one. `wrong` says what is wrong with a
    decoded answer to it, or nothing; KeyError, IndexError and TypeError say that its form is.
    """

    route: str
    body: Callable[[Asked], dict[str, Any]]
    wrong: Callable[[Any], str | None]

    def path(self, model: str) -> str:
        """Return the path to call."""
        return self.route.format(model=quote(model))

    def mistake(self, content: bytes) -> str | None:
        """Say what is wrong with an answer of status 200, or nothing."""
        try:
            return self.wrong(orjson.loads(content))
        except orjson.JSONDecodeError:
            return "no JSON"
        except (KeyError, IndexError, TypeError) as err:
            return f"another form: {type(err).__name__} {err}"


def named(asked: Asked, body: dict[str, Any]) -> dict[str, Any]:
    """Add the model's name, where one was given."""
    return {"model": asked.model, **body} if asked.model else body


def all_between(scores: list[float], least: float, most: float) -> str | None:
    """Say that there are no scores, or that one is out of bounds."""
    if not scores:
        return "no scores"
    if not all(least <= score <= most for score in scores):
        return "a score is out of bounds"
    return None
