import json
from argparse import ArgumentParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from loadtests import report
from loadtests.judge import judge
from loadtests.options import Told, add_options, read_options
from loadtests.record import Key, Record
from loadtests.slo import Objective, Slo

ROUTE = "/v1/<b>"


def told(*arguments: str) -> Told:
    parser = ArgumentParser()
    add_options(parser)
    return read_options(parser.parse_args(["--duration", "10", "--rate", "20", *arguments]))


def record(latency_s: float, period: str = "steady", dropped: int = 0) -> Record:
    made = Record(shares=1)
    for number in range(200):
        for tally in made.places(Key(ROUTE, "anybody", period), number % 5):
            tally.due += 1
            tally.add("answered", latency_s, 0.0, "")
    made.tallies[Key(ROUTE, "anybody", period)].due += dropped
    made.tallies[Key(ROUTE, "anybody", period)].dropped += dropped
    return made


def made(seen: Record, run: Told, slo: Slo) -> report.Document:
    return report.document(judge(seen, run.plan, slo, shares=1), seen, run, "http://there")


@pytest.mark.parametrize(
    ("latency_s", "dropped", "tags", "outcome"),
    [(0.05, 0, [], "met"), (0.5, 0, ["failure"], "missed"), (0.05, 1, ["error"], "invalid")],
)
def test_all_files_say_the_same(tmp_path: Path, latency_s: float, dropped: int, tags: list[str], outcome: str) -> None:
    found = made(record(latency_s, dropped=dropped), told(), Slo({ROUTE: Objective(p99_ms=100)}))

    list(report.write(found, tmp_path / "new"))

    kept = json.loads((tmp_path / "new/report.json").read_text())
    cases = ElementTree.parse(tmp_path / "new/junit.xml").getroot()
    page = (tmp_path / "new/report.html").read_text()
    assert kept["outcome"] == outcome
    assert kept["tallies"][0]["latency_ms"]["p99"] == pytest.approx(1000 * latency_s, rel=2e-3)
    assert [child.tag for case in cases for child in case] == tags
    assert f"<h1>{outcome}</h1>" in page
    assert "<svg" in page
    assert ROUTE not in page  # it is escaped
    assert f"verdict: {outcome}" in report.words(found)


def test_json_has_no_infinity() -> None:
    seen = Record(shares=1)
    for tally in seen.places(Key(ROUTE, "anybody", "steady"), 0):
        tally.due += 100
        for _ in range(100):
            tally.add("failed", 0.0, 0.0, "status 500")

    found = made(seen, told(), Slo({ROUTE: Objective(p99_ms=100)}))

    json.dumps(found, allow_nan=False)


def test_of_steps_the_highest_that_was_met_is_said() -> None:
    run, seen = told("--shape", "step"), Record()
    for step in range(1, 11):
        seen.merge(record(0.05 if step not in (7, 9) else 0.5, f"{10 * step} %"))

    found = made(seen, run, Slo({ROUTE: Objective(p99_ms=100)}))

    assert found["highest_rate_met"] == 12.0
    assert "highest rate that was met: 12 calls/s" in report.words(found)


def test_a_closed_loop_says_what_it_cannot_see() -> None:
    found = made(record(0.05), told("--closed"), Slo({}))

    assert "closed loop" in report.words(found)
    assert "no --slo" in report.words(found)
