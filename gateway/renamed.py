"""What a caller calls the fields that the engine knows by names of its own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from inference import InvalidRequest


@contextmanager
def renamed(names: Mapping[str, str]) -> Iterator[None]:
    """Tell what is wrong with the work inside under the caller's names; a place behind a name, as `[3]`, stays."""
    try:
        yield
    except InvalidRequest as err:
        name, bracket, place = (err.field or "").partition("[")
        if name not in names:
            raise
        raise replace(err, field=names[name] + bracket + place) from None


def below(parent: str, *fields: str) -> dict[str, str]:
    """Name fields that stand inside another."""
    return {field: f"{parent}.{field}" for field in fields}
