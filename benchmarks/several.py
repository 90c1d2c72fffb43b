"""
The gateway of `instant.py` in several processes, as `headrace serve --http-workers` has them.

`python -m benchmarks.several PORT HTTP_WORKERS` serves it. Nothing of torch is imported here, as in a real parent.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

import uvloop

from gateway import logs, server
from gateway.config import DrainConfig, HttpConfig, Settings
from gateway.parent import Parent


def main(port: int, workers: int) -> int:
    """Serve until a signal, with the log that `headrace serve` writes."""
    drain = DrainConfig(drain_delay_s=0.0, drain_timeout_s=1.0)
    settings = Settings(http=HttpConfig(workers=workers), drain=drain)
    logs.start(settings.log)
    listener = server.bind("127.0.0.1", port)
    with tempfile.TemporaryDirectory() as home:
        parent = Parent(settings, listener, Path(home), engine="benchmarks.instant:engine_of_its_own")
        return asyncio.Runner(loop_factory=uvloop.new_event_loop).run(parent.run())


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
