"""`python -m benchmarks NAME`: run one, print its tables, keep its file."""

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import Final

from benchmarks import (
    alone,
    autoscale,
    demand,
    goodput,
    gpu,
    hostile,
    http,
    idle,
    kills,
    limits,
    machine,
    overhead,
    policy,
    scale,
    serving,
    soak,
    tasks,
)
from benchmarks.peers import comparison
from benchmarks.results import Findings, publish

NAMES: Final[Mapping[str, Callable[[int, float], Findings]]] = {
    "alone": alone.run,
    "autoscale": autoscale.run,
    "demand": demand.run,
    "goodput": goodput.run,
    "gpu-offline": gpu.run_offline,
    "gpu-serving": gpu.run_serving,
    "hostile": hostile.run,
    "http": http.run,
    "idle": idle.run,
    "kills": kills.run,
    "limits": limits.run,
    "overhead": overhead.run,
    "peers": comparison.run,
    "policy": policy.run,
    "scale": scale.run,
    "serving": serving.run,
    "serving-bfloat16": serving.run_bfloat16,
    "soak": soak.run,
    "tasks": tasks.run,
}


def main() -> int:
    """Run the benchmark that the command line names; without a name, list them."""
    parser = argparse.ArgumentParser("python -m benchmarks", description="Measure Headrace on this machine.")
    parser.add_argument("name", nargs="?", choices=sorted(NAMES), help="without it, the names are listed")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds, of which medians are taken [5]")
    parser.add_argument("--seconds", type=float, default=2.0, help="least length of one measurement [2]")
    told = parser.parse_args()
    if told.name is None:
        summaries = {name: sys.modules[run.__module__].__doc__ for name, run in NAMES.items()}
        for name, summary in summaries.items():
            sys.stdout.write(f"{name:18}{(summary or '').strip().splitlines()[0]}\n")
        return 0
    commit = machine.commit()  # others may commit while it runs
    publish(NAMES[told.name](max(1, told.rounds), told.seconds), commit)
    return 0


if __name__ == "__main__":
    sys.exit(main())
