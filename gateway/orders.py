"""What the parent of several processes and its children tell each other, and what a child is born with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec

from gateway.config import Settings
from gateway.samples import Family

Role = Literal["engine", "HTTP process"]

ENGINE: Final = "inference:Engine"
MISUSED: Final = 2  # the exit code of what cannot serve as configured: to start it again would not help


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a child is to be; descriptors are open in it already. `engine` is made in it alone: `module:name`."""

    role: Role
    settings: Settings
    control: int  # the connection to its parent: it ends when the parent has gone
    listener: int  # where its callers connect: over HTTP, or the HTTP processes
    engine_path: Path
    engine: str = ENGINE


class Stop(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Drain, and end; `interrupted` by somebody at a terminal, who does not want to wait."""

    interrupted: bool


class Count(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Tell what you count."""


class Started(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The child does what it is for."""


class Counted(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """What a child counts."""

    page: list[Family]


FromParent = Stop | Count
FromChild = Started | Counted
