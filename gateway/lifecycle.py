"""starting -> ready -> draining -> stopped, and the probes that tell an orchestrator the truth."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from gateway.telemetry import Metrics, exchange_of
from inference import Client

State = Literal["starting", "ready", "draining", "stopped"]


class Lifecycle:
    """The state of this replica."""

    def __init__(self, client: Client, metrics: Metrics, *, with_engine: bool = True) -> None:
        """Begin as starting; without an engine in this process, what is told of it is left to the other one."""
        self._state: State = "starting"
        self._client = client
        self._metrics = metrics
        self._with_engine = with_engine
        self._closing: list[Callable[[], Awaitable[None]]] = []

    @property
    def state(self) -> State:
        """How far it is; an engine in another process may start again."""
        return "starting" if self._state == "ready" and not self._client.ready else self._state

    @property
    def draining(self) -> bool:
        """Whether callers should go elsewhere."""
        return self._state in {"draining", "stopped"}

    @property
    def healthy(self) -> bool:
        """Whether the device is alive and moving."""
        return self._client.healthy

    @property
    def loading(self) -> bool:
        """Whether a thread may be loading a model, which nothing can interrupt."""
        return self.state == "starting" or self._client.repository.changing

    async def start(self) -> None:
        """Load and warm up every model, then be ready; raises CannotServe."""
        self._metrics.count_tasks(asyncio.get_running_loop())
        await self._client.start()
        if self._with_engine:
            for model in self._client.models.values():
                self._metrics.loaded(model)
            self._metrics.watch(self._client.statistics, lambda: self.state == "ready" and self.healthy)
        self._state = "ready"

    def drain(self) -> None:
        """Tell the probes that this replica is going; calls are still taken and answered."""
        self._state = "draining"
        self._client.repository.close()

    async def device_lost(self) -> None:
        """Wait until a device is lost; only a new process can help then."""
        await self._client.lost()

    def abandon(self) -> int:
        """Fail what is not answered yet; returns how many calls that were."""
        return self._client.abandon()

    async def stop(self) -> None:
        """Answer what was taken, and stop the engine."""
        await self._client.stop()
        for close in self._closing:
            await close()
        self._state = "stopped"

    def at_stop(self, close: Callable[[], Awaitable[None]]) -> None:
        """Have something closed when everything was answered."""
        self._closing.append(close)

    def routes(self) -> list[Route]:
        """`/livez` and `/readyz`."""
        return [Route("/livez", self._livez), Route("/readyz", self._readyz)]

    async def _livez(self, request: Request) -> Response:
        """Fail only when a restart would help: a device thread is dead or stuck."""
        exchange_of(request.scope).route = "probe"
        if self._client.healthy:
            return PlainTextResponse("alive\n")
        return PlainTextResponse("a device thread is dead or stuck\n", 503)

    async def _readyz(self, request: Request) -> Response:
        exchange_of(request.scope).route = "probe"
        if self.state == "ready" and self._client.healthy:
            return PlainTextResponse("ready\n")
        return PlainTextResponse(f"{self.state if self._client.healthy else 'device lost'}\n", 503)
