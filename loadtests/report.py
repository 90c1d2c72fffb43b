"""What a run found: words for a terminal, and report.json, report.html and junit.xml in a folder."""

import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from html import escape
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

from loadtests.judge import Finding, Verdict
from loadtests.options import Told
from loadtests.pictures import pictures
from loadtests.record import Record, Tally

Document = Mapping[str, Any]

_SHOWN: Final = (50.0, 90.0, 95.0, 99.0, 99.9, 100.0)
_SHOWN_NAMES: Final = ("p50", "p90", "p95", "p99", "p99.9", "highest")
_CURVE: Final = tuple(100 * (1 - 10 ** (-step / 16)) for step in range(65))  # to 99.99 %
_STYLE: Final = "body{font:15px sans-serif;margin:2em auto;max-width:75em}td,th{padding:.2em .8em;text-align:right}"
_CLOSED: Final = "closed loop: callers who wait for a stalled server do not see what others would have"


def document(verdict: Verdict, record: Record, told: Told, host: str) -> Document:
    """Put everything into one document, of which all files are made."""
    plan = told.plan
    return {
        "outcome": verdict.outcome,
        "exit_code": verdict.exit_code,
        "judged": told.slo is not None,
        "reasons": list(verdict.reasons),
        "findings": [_finding(finding) for finding in verdict.findings],
        "highest_rate_met": _highest_rate_met(verdict, told),
        "conditions": {
            "host": host,
            "model": told.model or "the server's own",
            "rate": plan.rate,
            "duration_s": plan.duration_s,
            "warm_up_s": plan.warm_up_s,
            "loop": "closed" if told.closed else "open",
            "arrivals": "trace" if plan.trace else plan.kind,
            "callers": [caller.name for caller in told.callers],
            "timeout_s": told.timeout_s,
            "longest_words": told.longest_words,
            "seed": plan.seed,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "generator": {
                "python": platform.python_version(),
                "locust": version("locust"),
                "machine": platform.machine(),
            },
        },
        "tallies": [
            {"route": key.route, "period": key.period, "caller": key.caller} | _numbers(tally)
            for key, tally in sorted(record.tallies.items())
        ],
        "slices": [_slice(number, tally, told) for number, tally in sorted(record.slices.items())],
        "curve": _curve(record.total()),
    }


def words(found: Document) -> str:
    """Say it in lines."""
    conditions = found["conditions"]
    lines = [f"\n{conditions['host']}, {conditions['rate']:g} calls/s for {conditions['duration_s']:g} s"]
    lines += [f"  {_row(tally)}" for tally in found["tallies"]]
    lines += [f"  {finding['words']}" for finding in found["findings"]]
    lines += [f"  invalid: {reason}" for reason in found["reasons"]]
    if found["highest_rate_met"] is not None:
        lines.append(f"  highest rate that was met: {found['highest_rate_met']:g} calls/s")
    if conditions["loop"] == "closed":
        lines.append(f"  {_CLOSED}")
    if not found["judged"]:
        lines.append("  no --slo: nothing was promised, so nothing was judged")
    return "\n".join([*lines, f"verdict: {found['outcome']} (exit code {found['exit_code']})\n\n"])


def write(found: Document, folder: Path) -> Iterator[Path]:
    """Write the files, and yield where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"report.json": json.dumps(found, indent=2), "junit.xml": _junit(found), "report.html": _page(found)}
    for name, text in files.items():
        (folder / name).write_text(text + "\n", "utf-8")
        yield folder / name


def _highest_rate_met(verdict: Verdict, told: Told) -> float | None:
    """Of a shape of steps: the rate of the last period before one was missed; None where there is one period."""
    periods = list(told.plan.shape.periods)
    if len(periods) == 1 or not verdict.findings:
        return None
    missed = {finding.period for finding in verdict.findings if not finding.met}
    best = 0.0
    for period in periods:
        if period in missed:
            break
        best = max(best, told.plan.offered(period))
    return round(best, 3)


def _finding(finding: Finding) -> dict[str, Any]:
    found = finding.found if isfinite(finding.found) else None  # JSON has no infinity
    return asdict(finding) | {"found": found, "met": finding.met, "words": str(finding)}


def _numbers(tally: Tally) -> dict[str, Any]:
    return {
        "due": tally.due,
        "answered": tally.latency.count,
        "failed": dict(tally.failed),
        "shed": tally.shed,
        "dropped": tally.dropped,
        "lag_p99_ms": _ms(tally.lag.percentile_s(99)),
        "latency_ms": dict(zip(_SHOWN_NAMES, map(_ms, tally.latency.percentiles_s(_SHOWN)), strict=True)),
        "histogram": tally.latency.encode().decode("ascii"),  # HdrHistogram, microseconds
    }


def _slice(number: int, tally: Tally, told: Told) -> dict[str, Any]:
    start, end = told.plan.slice_s(number)
    p50_s, p99_s = tally.latency.percentiles_s((50, 99))
    return {
        "from_s": round(start, 3),
        "offered_per_s": tally.due / (end - start),
        "answered_per_s": tally.latency.count / (end - start),
        "failed_or_shed": tally.failed.total() + tally.shed,
        "p50_ms": _ms(p50_s),
        "p99_ms": _ms(p99_s),
    }


def _curve(tally: Tally) -> list[tuple[float, float | None]]:
    """Latency in milliseconds by percentile."""
    if not tally.latency.count:
        return []
    return [(percent, _ms(value)) for percent, value in zip(_CURVE, tally.latency.percentiles_s(_CURVE), strict=True)]


def _ms(seconds: float) -> float | None:
    return round(1000 * seconds, 3) if isfinite(seconds) else None


def _row(tally: Mapping[str, Any]) -> str:
    failed = sum(tally["failed"].values())
    counts = f"{tally['due']} due, {tally['answered']} answered, {tally['shed']} shed, {failed} failed"
    latencies = ", ".join(f"{name} {value}" for name, value in tally["latency_ms"].items() if value is not None)
    why = f" {tally['failed']}" if tally["failed"] else ""
    return f"{tally['route']}, {tally['period']}, {tally['caller']}: {counts}{why}; ms: {latencies or 'none'}"


def _junit(found: Document) -> str:
    """One case a promise; an invalid run is an error, a missed promise a failure."""
    suite = ElementTree.Element("testsuite", name="loadtest")
    for finding in found["findings"]:
        name = f"{finding['period']}: {finding['measure']}"
        case = ElementTree.SubElement(suite, "testcase", classname=finding["route"], name=name)
        if not finding["met"]:
            ElementTree.SubElement(case, "failure", message=finding["words"])
    for reason in found["reasons"]:
        case = ElementTree.SubElement(suite, "testcase", classname="loadtest", name="the run is valid")
        ElementTree.SubElement(case, "error", message=reason)
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", str(len(suite.findall("testcase/error"))))
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)


def _page(found: Document) -> str:
    findings = "".join(
        f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in _cells(finding))}</tr>"
        for finding in found["findings"]
    )
    lines = escape(words(found))
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>load test: {found['outcome']}</title>"
        f"<style>{_STYLE}</style><h1>{found['outcome']}</h1><pre>{lines}</pre>"
        f"<table><tr><th>route<th>period<th>measure<th>found<th>promised<th>met{findings}</table>"
        f"{pictures(found)}"
        f"<h2>conditions</h2><pre>{escape(json.dumps(found['conditions'], indent=2))}</pre></html>"
    )


def _cells(finding: Mapping[str, Any]) -> tuple[Any, ...]:
    relation = ">=" if finding["at_least"] else "<="
    promised = f"{relation} {finding['bound']:g}"
    found = "none" if finding["found"] is None else f"{finding['found']:.4g}"
    return finding["route"], finding["period"], finding["measure"], found, promised, finding["met"]
