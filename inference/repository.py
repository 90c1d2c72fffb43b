"""
Which models are served, and how that changes while calls go on.

A name has one version that takes calls; an older one answers what it took, then its memory is given back. A new one is
made ready beside the old one where the memory allows it; else the old one goes first, and is loaded again if the new
one cannot serve. One change at a time. Lives on the event loop; what takes long runs in a thread.
"""

import asyncio
import logging
from collections.abc import Callable, Container, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from inference.checkpoint import Checkpoint
from inference.config import ModelSource
from inference.errors import CannotServe, InferenceError, InvalidRequest, Unavailable, UnknownModel
from inference.fetch import DEFAULT_MODEL
from inference.intake import Served
from inference.task import Ability

if TYPE_CHECKING:
    from inference.engine import Engine
    from inference.model import ServedModel

_log = logging.getLogger(__name__)

State = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]


@dataclass(frozen=True, slots=True)
class ModelState:
    """What is known of one name; the words for states are Triton's."""

    name: str
    version: int  # the one that takes calls, or did so last; 0: none ever
    state: State
    reason: str = ""


class Repository:
    """The models of this process, by name."""

    def __init__(self, engine: "Engine") -> None:
        """Take an engine that is still to be loaded."""
        self.served: dict[str, Served] = {}
        self._engine = engine
        self._sources: dict[str, ModelSource] = {}  # of what was loaded from elsewhere than it started with
        self._states: dict[str, ModelState] = {}
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "load")  # torch keeps room for its products in every thread that ran them
        self._changes: set[asyncio.Task[ModelState]] = set()
        self._closed = False

    def open(self) -> None:
        """Serve what the engine has loaded, and nothing else."""
        self.served.clear()
        self._states.clear()
        for model in self._engine.models.values():
            self._serve(model)

    @property
    def changing(self) -> bool:
        """Whether a thread may be loading a model."""
        return self._turn.locked()

    async def index(self) -> list[ModelState]:
        """Say what is served, what was, and what could be loaded by its name alone."""
        named = [source.name for source in self._engine.config.models]
        folders = [] if self._engine.config.control.root is None else await asyncio.to_thread(self._folders)
        could = {name: ModelState(name, 0, "UNAVAILABLE") for name in [*named, *folders]}
        return list(
            (self._states | {name: state for name, state in could.items() if name not in self._states}).values()
        )

    async def load(self, name: str, source: ModelSource | None = None) -> ModelState:
        """
        Serve a model, in the place of the version of now if there is one; None: from where it came last.

        Raises CannotServe, and the version of now goes on; UnknownModel where nobody says where the model is.
        """
        return await self._change(lambda: self._load(name, source))

    async def unload(self, name: str) -> ModelState:
        """Serve a model no more, once what it took is answered; raises UnknownModel."""
        return await self._change(lambda: self._unload(name))

    def absent(self, name: str | None, among: Container[str] | None = None) -> InferenceError:
        """Say why no model of this name (None: of any name) takes calls, and which of those `among` (None: all) do."""
        if not self._states:
            return Unavailable("starting")
        meant = [state for state in self._states.values() if name in (None, state.name)]
        if any(state.state == "LOADING" for state in meant):
            return Unavailable("the model is being loaded")
        if name is None:
            return UnknownModel("no model is served", "model")
        known = ", ".join(each for each in self.served if among is None or each in among) or "none"
        return UnknownModel(f"the model {name!r} is not served; there is: {known}", "model")

    def meant(self, name: str | None, ability: Ability | None, among: Container[str] | None = None) -> Served:
        """
        Return the model of this name, or the only one that can do this (None: anything); raises InferenceError.

        Of other models than those `among` (None: all) nothing is said.
        """
        if not self.served or (name is not None and name not in self.served):
            raise self.absent(name, among)
        if name is not None:
            told = [self.served[name]]
        else:
            told = [served for known, served in self.served.items() if among is None or known in among]
        able = [served for served in told if ability is None or ability in served.model.abilities]
        if len(able) == 1:
            return able[0]
        raise InvalidRequest(_whose(told, able, ability), "model")

    def close(self) -> None:
        """Give up changes that are under way, and refuse others; what serves goes on serving."""
        self._closed = True
        for change in self._changes:
            change.cancel()

    async def _change(self, change: Callable[[], Coroutine[Any, Any, ModelState]]) -> ModelState:
        """Make a change when its turn comes, and to its end: whoever asked for it may go."""
        if self._closed:
            raise Unavailable("draining")
        task = asyncio.create_task(self._in_turn(change))
        self._changes.add(task)
        task.add_done_callback(self._ended)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise Unavailable("draining") from None
            raise

    async def _in_turn(self, change: Callable[[], Coroutine[Any, Any, ModelState]]) -> ModelState:
        async with self._turn:
            return await change()

    def _ended(self, change: "asyncio.Task[ModelState]") -> None:
        self._changes.discard(change)
        if not change.cancelled():
            change.exception()  # seen: who asked may have gone, and it is in the log

    async def _load(self, name: str, source: ModelSource | None) -> ModelState:
        found = source or await asyncio.to_thread(self._source, name)
        if name not in self.served:
            self._tell(name, "LOADING")
        reason = "the last load failed"
        try:
            checkpoint = await asyncio.to_thread(self._engine.open, name, found)
            await self._put(checkpoint)
            reason = ""
        except CannotServe as err:
            reason = f"the last load failed: {err}"
            _log.error("model %s: %s", name, reason)
            raise
        finally:
            state = self._tell(name, "READY" if name in self.served else "UNAVAILABLE", reason)
        if found is not None:
            self._sources[name] = found
        return state

    async def _unload(self, name: str) -> ModelState:
        served = self.served.pop(name, None)
        if served is None:
            raise self.absent(name)
        self._tell(name, "UNLOADING")
        await self._retire(served)
        return self._tell(name, "UNAVAILABLE", "unloaded")

    async def _put(self, checkpoint: Checkpoint) -> None:
        """Serve a checkpoint, beside the version of now or after it."""
        old = self.served.get(checkpoint.name)
        if await asyncio.to_thread(self._fits_now, checkpoint, old):
            await self._prepare(checkpoint)
            if old is not None:
                await self._retire(old)
        elif old is not None:
            await self._swap(checkpoint, old)

    async def _swap(self, checkpoint: Checkpoint, old: Served) -> None:
        """Let the old version go first; calls that come meanwhile are told to come back."""
        name = checkpoint.name
        _log.warning("model %s: two versions do not fit the memory: it takes no calls until the new one is ready", name)
        del self.served[name]
        self._tell(name, "LOADING")
        await self._retire(old)
        try:
            await self._prepare(checkpoint)
        finally:
            if name not in self.served and not self._closed:
                source = await asyncio.to_thread(self._source, name)
                await self._prepare(await asyncio.to_thread(self._engine.open, name, source))

    async def _prepare(self, checkpoint: Checkpoint) -> None:
        """Make a checkpoint ready, and give it the calls from then on."""
        version = self._states[checkpoint.name].version + 1
        loop = asyncio.get_running_loop()
        loaded = await loop.run_in_executor(self._thread, self._engine.prepare, checkpoint, version)
        self._engine.add(loaded)
        self._serve(loaded.served)

    async def _retire(self, served: Served) -> None:
        await served.use.over()
        await self._engine.retire(served.model.key)
        _log.info("model %s: version %d is gone", served.model.name, served.model.version)

    def _serve(self, model: "ServedModel") -> None:
        self.served[model.name] = Served(model)
        self._states[model.name] = ModelState(model.name, model.version, "READY")

    def _tell(self, name: str, state: State, reason: str = "") -> ModelState:
        last = self._states.get(name)
        self._states[name] = ModelState(name, last.version if last else 0, state, reason)
        return self._states[name]

    def _fits_now(self, checkpoint: Checkpoint, old: Served | None) -> bool:
        """Whether a model fits beside all others; raises CannotServe if it does not fit without `old` either."""
        needed, free = self._engine.needed_bytes(checkpoint), self._engine.free_bytes()
        if free is None or needed <= free:
            return True
        if old is None or needed > free + self._engine.held_bytes(old.model.key):
            raise CannotServe(f"model {checkpoint.name}: it takes about {needed} bytes, and {free} are free")
        return False

    def _source(self, name: str) -> ModelSource | None:
        """Find where a model comes from by its name alone; None: the built-in default. Raises UnknownModel."""
        config = self._engine.config
        told = {source.name: source for source in config.models} | self._sources
        if name in told:
            return told[name]
        if not config.models and name == DEFAULT_MODEL.name:
            return None
        if config.control.root is not None and name in self._folders():
            return ModelSource(name, str(config.control.root / name))
        raise UnknownModel(f"no --model and no folder of --model-root has the name {name!r}", "model")

    def _folders(self) -> list[str]:
        """Names of the folders that models may be loaded from by name."""
        root: Path | None = self._engine.config.control.root
        return (
            [] if root is None or not root.is_dir() else sorted(each.name for each in root.iterdir() if each.is_dir())
        )


def _whose(told: Sequence[Served], able: Sequence[Served], ability: Ability | None) -> str:
    """Say why it is not clear which model is meant, or what those that are meant can do."""
    if len(able) > 1:
        return f"say which model is meant: {', '.join(served.model.name for served in able)}"
    can = "; ".join(f"{served.model.name} can {', '.join(served.model.abilities)}" for served in told)
    return f"no model here does {ability}: {can}" if len(told) > 1 else f"does not {ability}: {can}"
