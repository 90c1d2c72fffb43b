"""An engine whose models change: the real batcher and repository before devices that compute nothing."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from inference import CannotServe, EngineConfig, ModelSource, ServedModel
from inference.cost import CostModel
from inference.lane import Lane
from tests.gateway.fakes import MODEL, FakeDevice, FakeEngine, served


@dataclass(frozen=True)
class Place:
    """What the fake engine opens instead of a checkpoint."""

    name: str
    source: ModelSource | None


@dataclass(frozen=True, eq=False)
class Ready:
    """A model that waits to be added."""

    served: ServedModel
    device: FakeDevice


class ChangingEngine(FakeEngine):
    """Each version of a model has a device of its own, whose vectors are as long as its number."""

    def __init__(self, names: Sequence[str] = (MODEL,), config: EngineConfig | None = None) -> None:
        super().__init__(names)
        told = tuple(ModelSource(name, f"hub/{name}") for name in names)
        self.config = config if config is not None else EngineConfig(models=told)
        self.opened: list[ModelSource | None] = []
        self.devices: dict[str, FakeDevice] = dict.fromkeys(names, self.device)
        self.preparing = threading.Event()
        self.may_prepare = threading.Event()
        self.may_prepare.set()
        self.broken: set[str] = set()  # locations that cannot be served
        self.needed, self.free = 0, 0
        self.retired: list[str] = []
        self.threads: list[str] = []  # that prepared a model

    def open(self, name: str, source: ModelSource | None) -> Place:
        self.opened.append(source)
        return Place(name, source)

    def needed_bytes(self, place: Place) -> int:
        return self.needed

    def free_bytes(self) -> int | None:
        return self.free

    def held_bytes(self, key: str) -> int:
        return 100

    def prepare(self, place: Place, version: int) -> Ready:
        self.preparing.set()
        self.threads.append(threading.current_thread().name)
        assert self.may_prepare.wait(30), "nobody let the load end"
        if place.source is not None and place.source.location in self.broken:
            raise CannotServe(f"{place.source.location} is broken")
        model = replace(served(place.name), version=version, revision=place.source and place.source.revision)
        return Ready(model, FakeDevice({model.key: "embed"}, float(version)))

    def add(self, ready: Ready) -> None:
        self.devices[ready.served.key] = ready.device
        lane = Lane(packed=True, cost=CostModel())
        self._running().add(ready.served.key, lane, {"cpu": ready.device})

    async def retire(self, key: str) -> None:
        await self._running().retire(key)
        self.retired.append(key)
        del self.devices[key]


def folder(root: Path, name: str) -> Path:
    """An empty folder below the root."""
    made = root / name
    made.mkdir()
    return made
