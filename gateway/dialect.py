"""What the module of a dialect gives to the application that joins them all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.responses import Response
from starlette.routing import Route

from gateway.errors import Fault

Schemas = dict[str, dict[str, dict[str, Any]]]
"""
Path -> method -> operation: `summary`; the type of its `body` and of its `answer`, or a tuple of those that it may be;
`statuses` and `error` where they are not the dialect's own.
"""


class Dialect(Protocol):
    """A module: its operations, and how it says that something is wrong."""

    __name__: str

    @property
    def SCHEMAS(self) -> Schemas:
        """The operations, for the OpenAPI document."""

    @property
    def STATUSES(self) -> tuple[int, ...]:
        """Every status of an answer that is not 200."""

    @property
    def PREFIXES(self) -> tuple[str, ...]:
        """Unknown paths that begin so are answered in this dialect."""

    @property
    def ErrorAnswer(self) -> type:
        """The body of such an answer."""

    def render(self, fault: Fault) -> Response:
        """Draw a fault."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """A dialect, its routes, and the path that they are all below."""

    dialect: Dialect
    routes: Sequence[Route]
    below: str = ""

    @property
    def name(self) -> str:
        """What grants call it: its module's name; over gRPC it is the same one."""
        return self.dialect.__name__.rpartition(".")[2].removesuffix("_rpc")

    @property
    def schemas(self) -> Mapping[str, Mapping[str, dict[str, Any]]]:
        """The operations by their whole path."""
        return {self.below + path: methods for path, methods in self.dialect.SCHEMAS.items()}

    @property
    def prefixes(self) -> Sequence[str]:
        """How unknown paths begin that this dialect answers."""
        return [self.below + prefix for prefix in self.dialect.PREFIXES]
