"""One function a command: takes its arguments, returns the exit code."""

import argparse
import asyncio
import logging
import os
import pickle
import socket
import ssl
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import uvloop
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

import inference
from gateway import child as children
from gateway import collector, config, logs, progress, reference, server
from gateway import plan as planning
from gateway.app import create_app
from gateway.audit import Unwritable
from gateway.cards import Page
from gateway.config import HttpConfig, Settings
from gateway.exporter import export
from gateway.gpu_metrics import GpuMetrics
from gateway.gpus import Gpus
from gateway.kinds import BOOLEAN
from gateway.lifecycle import Lifecycle
from gateway.mistakes import SettingsError
from gateway.options import FLAGS
from gateway.orders import MISUSED, Assignment
from gateway.parent import Parent
from gateway.plan import BadFile, Wish
from gateway.samples import Pages
from gateway.telemetry import Metrics
from gateway.tls import server_context
from gateway.watched import Unreadable
from inference import CannotServe, Client, EngineConfig, InferenceError, Limits

if TYPE_CHECKING:
    from inference import Profile

_log = logging.getLogger(__name__)

_DRIFTED = 1


def serve(arguments: Sequence[str]) -> int:
    """Serve models over HTTP until a signal."""
    return _with_settings(arguments, _serve)


def child(arguments: Sequence[str]) -> int:
    """Be one of the processes of `serve --http-workers`: which one stands on standard input, in a pickle."""
    assignment: Assignment = pickle.load(sys.stdin.buffer)  # from the parent that has made this process
    logs.start(assignment.settings.log)
    try:
        return children.run(assignment)
    except (Unreadable, Unwritable, CannotServe) as err:
        return _refuse(str(err))


def fetch(arguments: Sequence[str]) -> int:
    """Bring the models of `serve` into the cache and check their files, so that serving needs no network."""
    return _with_settings(arguments, _fetch)


def profile(arguments: Sequence[str]) -> int:
    """Load the models as `serve` would, and print what they can do on this device; `--output FILE` keeps it as JSON."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--output", type=Path)
    told, keys = parser.parse_known_args(arguments)
    return _with_settings(keys, lambda settings: _profile(settings, told.output))


def plan(arguments: Sequence[str]) -> int:
    """Recommend how a fleet should be scaled for a trace, by simulation; 1 where nothing keeps the target."""
    told = _plan_flags().parse_args(arguments)
    if not (told.target_ms > 0 and told.timeout_ms > 0 and told.start_s >= 0 and told.gpus > 0):
        return _refuse("--target-ms, --timeout-ms and --gpus must be above 0, --start-s at least 0")
    wish = Wish(told.target_ms / 1000, told.timeout_ms / 1000, told.start_s, told.gpus)
    path: Path = told.trace
    try:
        arrivals = planning.read_trace(path.read_text(encoding="utf-8"))
        path = told.profile
        profile = planning.read_profile(path.read_text(encoding="utf-8"), told.model)
        one = planning.replica(profile, arrivals.tokens, wish)
    except OSError as err:
        return _refuse(f"cannot read {path}: {err.strerror}")
    except (UnicodeDecodeError, BadFile) as err:
        return _refuse(f"{path}: {err}")
    found = planning.recommend(one, arrivals.rates, wish)
    print(planning.summary(found, wish))
    return 0 if found.met else 1


def models(arguments: Sequence[str]) -> int:
    """Say what checkpoints are, without serving them; 1: answers are not the golden ones, 2: one is refused."""
    told, words = _models_flags().parse_known_args(arguments)
    return _with_settings(list(_places_as_models(words)), lambda settings: _models(settings.engine, told))


def print_settings(arguments: Sequence[str]) -> int:
    """Print the reference of all settings, as Markdown."""
    print(reference.document())
    return 0


def _with_settings(arguments: Sequence[str], command: Callable[[Settings], int]) -> int:
    """Run a command with its settings; what is wrong with them or with a model is told in one line."""
    if {"-h", "--help"} & set(arguments):
        print(reference.usage())
        return 0
    try:
        settings = config.load(arguments, os.environ)
        logs.start(settings.log)
        return command(settings)
    except (SettingsError, Unreadable, Unwritable, CannotServe) as err:
        return _refuse(str(err))


def _fetch(settings: Settings) -> int:
    for checkpoint in inference.open_checkpoints(settings.engine):
        print(f"{checkpoint.name} {checkpoint.revision or '-'} {checkpoint.path}")
    return 0


def _plan_flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("headrace plan", description=plan.__doc__, allow_abbrev=False)
    parser.add_argument("--profile", type=Path, required=True, help="what `headrace profile --output` wrote")
    parser.add_argument("--trace", type=Path, required=True, help="CSV: seconds,texts_per_second,tokens_per_text")
    parser.add_argument("--target-ms", type=float, required=True, help="latency that callers should see")
    parser.add_argument("--timeout-ms", type=float, default=1000, help="how long callers wait [%(default)s]")
    parser.add_argument(
        "--start-s", type=float, default=60, help="from a pod's creation to its first call [%(default)s]"
    )
    parser.add_argument("--gpus", type=int, default=100, help="GPUs there are, one a replica [%(default)s]")
    parser.add_argument("--model", help="which of the profile's models, if there are several")
    return parser


def _profile(settings: Settings, output: Path | None) -> int:
    with progress.shown() as step:
        engine = inference.Engine(settings.engine, progress=step)
        engine.load()
        profiles = engine.profile()
    for measured in profiles:
        print(_profile_text(measured, settings.engine.limits))
    try:
        if output is not None:
            output.write_bytes(msgspec.json.format(msgspec.json.encode(profiles)) + b"\n")
    except OSError as err:
        return _refuse(f"cannot write {output}: {err.strerror}")
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


def _models_flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "headrace models",
        usage="%(prog)s [--card] [--json] [--golden FILE] [--record FILE] [--key VALUE] [[NAME=]PATH_OR_HUB_ID ...]",
        description="Say what checkpoints are, without serving them; with none, the model that serve would take. "
        "Takes the keys of serve, and compares with --golden FILE instead of refusing.",
        allow_abbrev=False,
    )
    parser.add_argument("--card", action="store_true", help="load it as serve would, and say what it is then")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write its answers to the texts on standard input")
    return parser


def _places_as_models(words: Sequence[str]) -> Iterator[str]:
    """Read a word that is no flag, nor a flag's value, as a model."""
    is_value = False
    for word in words:
        is_flag = word.startswith("--")
        yield word if is_flag or is_value else f"--model={word}"
        is_value = word in FLAGS and FLAGS[word].kind is not BOOLEAN


def _models(engine: EngineConfig, told: argparse.Namespace) -> int:
    if told.record is not None and len(engine.models) > 1:
        return _refuse("--record takes one model")
    pages, code = [], 0
    for one in [replace(engine, models=(source,)) for source in engine.models] or [engine]:
        try:
            page = _page(one, told)
        except InferenceError as err:
            code = _refuse(str(err))  # the greatest there is
            continue
        if not told.json:
            print(page)
        pages.append(page)
        code = max(code, _DRIFTED if page.drifted else 0)
    if told.json:
        print(msgspec.json.format(msgspec.json.encode(pages), indent=2).decode())
    return code


def _page(config: EngineConfig, told: argparse.Namespace) -> Page:
    [checkpoint] = inference.open_checkpoints(config)
    card = inference.read_card(checkpoint)
    path = inference.told_for(card.name, config.goldens)
    golden = None if path is None else inference.read_golden(path)
    inputs = None if told.record is None else inference.read_inputs(sys.stdin)
    if not told.card and golden is None and inputs is None:
        return Page(card)
    with progress.shown() as step:
        engine = inference.Engine(replace(config, goldens=()), progress=step)
        engine.load()
    loaded = engine.inspect(card.name) if told.card else None
    if inputs is not None:
        rows = engine.answers(card.name, inputs)
        inference.write_golden(inference.record(card.name, card.revision, card.task, inputs, rows), told.record)
    if golden is None:
        return Page(card, loaded)
    drifts = inference.compare(golden, card.name, card.task, engine.answers(card.name, golden.inputs))
    return Page(card, loaded, tuple(drifts))


def _serve(settings: Settings) -> int:
    http = settings.http
    collector.check(settings.trace)
    tls = server_context(settings.tls)
    try:
        listener = server.bind(http.host, http.port)
    except OSError as err:
        return _refuse(f"cannot listen on {http.host}:{http.port}: {err.strerror}; choose another --port")
    if http.workers > 0:
        return _serve_in_several(settings, listener)
    metrics = Metrics(settings.engine.limits.latency_target_s)
    tracer = collector.open_tracer(settings.trace)
    try:
        _export(settings, metrics.registry)
    except OSError as err:
        return _refuse_metrics(http, err)
    with progress.shown() as step:
        engine = inference.Engine(settings.engine, observer=metrics.engine_event, progress=step)
        client = Client(engine, settings.engine.limits, auto_truncate=settings.engine.auto_truncate)
        lifecycle = Lifecycle(client, metrics)
        app = create_app(settings, client, lifecycle, metrics, traced=None if tracer is None else tracer.around)
        serving = _run(settings, app, listener, lifecycle, tls=tls, on_cut=metrics.cut)
        code = asyncio.Runner(loop_factory=uvloop.new_event_loop).run(serving)
    if tracer is not None:
        tracer.close()
    if lifecycle.loading or not lifecycle.healthy:
        os._exit(code)  # a thread that loads weights, or is stuck in the device, cannot be interrupted
    return code


async def _run(
    settings: Settings,
    app: FastAPI,
    listener: socket.socket,
    lifecycle: Lifecycle,
    *,
    tls: ssl.SSLContext | None,
    on_cut: Callable[[str], None],
) -> int:
    http = settings.http
    if http.grpc_port is None:
        return await server.run(app, listener, http, settings.drain, lifecycle, tls=tls, on_cut=on_cut)
    from gateway.rpc import Rpc  # noqa: PLC0415 - gRPC takes some 20 MB, and starts threads

    rpc = Rpc(app, http, settings.deadlines)
    try:
        port = await rpc.start()
    except OSError as err:
        return _refuse(f"cannot listen on {http.host}:{http.grpc_port}: {err}; choose another --grpc-port")
    _log.info("gRPC on %s", server.url(http.host, port).removeprefix("http://"))
    return await server.run(app, listener, http, settings.drain, lifecycle, tls=tls, rpc=rpc, on_cut=on_cut)


def _serve_in_several(settings: Settings, listener: socket.socket) -> int:
    """Be the parent of the engine's process and those for HTTP; torch and models are not loaded here."""
    with tempfile.TemporaryDirectory(prefix="headrace-") as home:  # 0700
        parent = Parent(settings, listener, Path(home))
        registry = CollectorRegistry()
        registry.register(Pages(parent.pages))
        try:
            _export(settings, registry)
        except OSError as err:
            return _refuse_metrics(settings.http, err)
        return asyncio.Runner(loop_factory=uvloop.new_event_loop).run(parent.run())


def _export(settings: Settings, registry: CollectorRegistry) -> None:
    http = settings.http
    port = export(http, registry)
    _log.info("metrics on %s/metrics", server.url(http.host, port))
    if settings.metrics.gpus:
        gpus = Gpus()
        gpus.start()
        registry.register(GpuMetrics(gpus.seen))


def _refuse_metrics(http: HttpConfig, err: OSError) -> int:
    return _refuse(f"cannot listen on {http.host}:{http.metrics_port}: {err.strerror}; choose another --metrics-port")


def _refuse(message: str) -> int:
    sys.stderr.write(f"headrace: {message}\n")
    return MISUSED
