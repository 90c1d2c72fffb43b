#!/usr/bin/env bash
# Serve the default model here, run the short scenario against it, and leave with its verdict. `make loadtest`.
set -euo pipefail
cd "$(dirname "$0")/.."
log=$(mktemp)
.venv/bin/headrace serve --port 0 --metrics-port 0 --drain-delay 0 >"$log" 2>&1 &
server=$!
trap 'kill $server 2>/dev/null; wait $server 2>/dev/null || true; rm -f "$log"' EXIT
until host=$(grep -o 'listening on http://[^ "]*' "$log" | head -1); do
    kill -0 $server 2>/dev/null || { cat "$log" >&2; exit 3; }
    sleep 0.2
done
.venv/bin/locust -f loadtests/embed.py --headless --only-summary --host "${host#listening on }" \
    --rate 10 --duration 15 --warm-up 5 --slo loadtests/short.toml "$@"
