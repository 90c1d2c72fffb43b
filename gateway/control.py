"""
Who may change which models are served, and where they may come from; what every dialect asks that loads and unloads.

Off unless `--model-control explicit`. Then, where there are keys, it takes one with the right `admin`, and the model is
one of its grant; where there are none, any program on this machine may, but no page in a browser. A model comes from a
source that `--model` names, a hub's at any commit, or from a folder below `--model-root`; from nowhere else.
"""

import asyncio
from os.path import commonpath, isdir, realpath
from typing import Final

from starlette.requests import Request

from gateway.access import is_admin
from gateway.call import Door, check_model
from gateway.config import Settings
from gateway.errors import HttpFault
from gateway.kinds import MODEL_NAME, read_source
from gateway.telemetry import Metrics, exchange_of, header
from inference import CannotServe, ModelSource, ModelState

_OFF: Final = "loading and unloading models is not enabled: start the server with --model-control explicit"
_LONGEST: Final = 200  # characters of a name, in the audit log
_ELSEWHERE: Final = "is neither a source of --model nor a folder below --model-root"


class ModelControl:
    """Changes of what is served."""

    def __init__(self, door: Door, settings: Settings, metrics: Metrics) -> None:
        """Take the way to the models, and what is allowed."""
        self._client = door.client
        self._config = settings.engine
        self._keyed = settings.access.keys is not None
        self._metrics = metrics

    async def index(self, request: Request) -> list[ModelState]:
        """Say what is served, what was, and what could be, of that what the caller may use."""
        who, states = exchange_of(request.scope).caller, await self._client.repository.index()
        return [state for state in states if who is None or who.may_use(state.name)]

    async def load(self, request: Request, name: str, source: str | None) -> ModelState:
        """Load a model, or replace it, from a source as --model takes it; raises HttpFault and InferenceError."""
        self._check(request, "load", name)
        if not MODEL_NAME.fullmatch(name):
            raise HttpFault(400, "invalid_request", "must be letters, digits, dots and hyphens", "model")
        told = None if source is None else await asyncio.to_thread(self._read, name, source)
        try:
            state = await self._client.repository.load(name, told)
        except CannotServe as err:
            raise HttpFault(400, "cannot_serve", str(err)) from err
        self._metrics.loaded(self._client.model_for(name, None))
        return state

    async def unload(self, request: Request, name: str) -> ModelState:
        """Unload a model; raises HttpFault and InferenceError."""
        self._check(request, "unload", name)
        return await self._client.repository.unload(name)

    def _check(self, request: Request, act: str, name: str) -> None:
        if self._config.control.mode != "explicit":
            raise HttpFault(403, "forbidden", _OFF)
        exchange = exchange_of(request.scope)
        allowed = is_admin(request.scope) if self._keyed else header(request.scope, b"origin") is None
        if not allowed:
            raise HttpFault(403, "forbidden", "this caller may not load or unload models")
        check_model(exchange.caller, name)
        exchange.action = f"{act} {name[:_LONGEST]}"

    def _read(self, name: str, text: str) -> ModelSource:
        """Read a source, and look whether it is allowed."""
        try:
            source = read_source(f"{name}={text}")
        except ValueError:
            source = None
        if source is None or source.name != name or not text.isprintable():
            message = "is not PATH_OR_HUB_ID[@REVISION], a hub's REVISION being a commit of 40 hex digits"
            raise HttpFault(400, "invalid_request", message, "parameters.source")
        if not self._is_allowed(source):
            raise HttpFault(403, "forbidden", _ELSEWHERE, "parameters.source")
        return source

    def _is_allowed(self, source: ModelSource) -> bool:
        if any(source.location == told.location for told in self._config.models):
            return True
        root = self._config.control.root
        if root is None or not isdir(source.location):
            return False
        top, place = realpath(root), realpath(source.location)  # links may lead out
        return place != top and commonpath([top, place]) == top
