"""One function a command: takes its arguments, returns the exit code."""

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import uvloop
from prometheus_client import start_http_server

import inference
from gateway import config, progress, server
from gateway.app import create_app
from gateway.config import Settings, SettingsError
from gateway.lifecycle import Lifecycle
from gateway.telemetry import Metrics
from inference import CannotServe, Client, Limits

if TYPE_CHECKING:
    from inference import Profile

_log = logging.getLogger(__name__)

_MISUSED = 2


def serve(arguments: Sequence[str]) -> int:
    """Serve models over HTTP until a signal."""
    return _with_settings(arguments, _serve)


def profile(arguments: Sequence[str]) -> int:
    """Load the models as `serve` would, and print what they can do on this device."""
    return _with_settings(arguments, _profile)


def print_settings(arguments: Sequence[str]) -> int:
    """Print the reference of all settings, as Markdown."""
    print(config.document())
    return 0


def _with_settings(arguments: Sequence[str], command: Callable[[Settings], int]) -> int:
    """Run a command with its settings; what is wrong with them or with a model is told in one line."""
    if {"-h", "--help"} & set(arguments):
        print(config.usage())
        return 0
    try:
        settings = config.load(arguments, os.environ)
        _start_logging(settings.log.level)
        return command(settings)
    except (SettingsError, CannotServe) as err:
        return _refuse(str(err))


def _profile(settings: Settings) -> int:
    with progress.shown() as step:
        engine = inference.Engine(settings.engine, progress=step)
        engine.load()
        profiles = engine.profile()
    for measured in profiles:
        print(_profile_text(measured, settings.engine.limits))
    return 0


def _profile_text(measured: "Profile", limits: Limits) -> str:
    curve = measured.curve
    head = f"""{measured.model}
  seconds a batch = {curve.base_s:.3g} + {curve.token_s:.3g} x tokens + {curve.sequence_s:.3g} x sequences \
+ {curve.square_s:.3g} x squared lengths
  prediction error: median {measured.error_p50:.0%}, 95th percentile {measured.error_p95:.0%}
  in batches of at most {limits.max_batch_s * 1000:g} ms (its cap), from a full queue:
    tokens a text   texts a batch   ms a batch   texts a second"""
    rows = [
        f"    {at.length:13}   {at.sequences:13}   {at.batch_s * 1000:10.1f}   {at.texts_per_s:14.1f}"
        for at in measured.capacities
    ]
    return "\n".join([head, *rows])


def _serve(settings: Settings) -> int:
    http = settings.http
    metrics = Metrics(settings.engine.limits.latency_target_s)
    try:
        listener = server.bind(http.host, http.port)
    except OSError as err:
        return _refuse(f"cannot listen on {http.host}:{http.port}: {err.strerror}; choose another --port")
    try:
        exporter, _ = start_http_server(http.metrics_port, http.host, metrics.registry)
    except OSError as err:
        return _refuse(
            f"cannot listen on {http.host}:{http.metrics_port}: {err.strerror}; choose another --metrics-port"
        )
    _log.info("metrics on %s/metrics", server.url(http.host, exporter.server_port))
    with progress.shown() as step:
        engine = inference.Engine(settings.engine, observer=metrics.engine_event, progress=step)
        client = Client(engine, settings.engine.limits, auto_truncate=settings.engine.auto_truncate)
        lifecycle = Lifecycle(client, metrics)
        app = create_app(settings, client, lifecycle, metrics)
        serving = server.run(app, listener, http, settings.drain, lifecycle)
        code = asyncio.Runner(loop_factory=uvloop.new_event_loop).run(serving)
    if lifecycle.state == "starting" or not lifecycle.healthy:
        os._exit(code)  # a thread that loads weights, or is stuck in the device, cannot be interrupted
    return code


def _start_logging(level: str) -> None:
    logging.basicConfig(
        level=level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("uvicorn").setLevel("WARNING")


def _refuse(message: str) -> int:
    sys.stderr.write(f"headrace: {message}\n")
    return _MISUSED
