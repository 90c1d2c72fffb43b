#!/usr/bin/env bash
# Write the locks of the image from pyproject.toml and constraints.txt: `make lock`. torch-cpu.lock is kept by hand.
set -euo pipefail
cd "$(dirname "$0")/.."

compile() {
    "${UV:-uv}" pip compile --quiet --constraints constraints.txt --generate-hashes --no-annotate \
        --python-version 3.11.0 --python-platform x86_64-manylinux_2_28 --custom-compile-command 'make lock' "$@"
}

grep '^torch==' constraints.txt | compile - --output-file requirements/torch-cuda.lock
mapfile -t of_torch < <(grep -oE '^(torch|triton|cuda-[a-z]+|nvidia-[a-z0-9-]+)==' requirements/torch-cuda.lock | tr -d =)
compile pyproject.toml --extra tracing "${of_torch[@]/#/--no-emit-package=}" --output-file requirements/runtime.lock
echo 'hatchling==1.33.0' | compile - --output-file requirements/build.lock
printf '%s\n' hdrhistogram locust matplotlib orjson | compile - --output-file requirements/loadtest.lock
