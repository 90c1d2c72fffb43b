"""The Job of k8s/components/loadtest is told what Locust and the load tests take."""

from argparse import ArgumentParser
from pathlib import Path

import yaml

from loadtests.options import add_options, read_options
from tests.k8s.manifests import ROOT

COMPONENT = ROOT / "k8s/components/loadtest"


def test_the_job_is_told_what_can_be_read(tmp_path: Path) -> None:
    job = yaml.safe_load((COMPONENT / "job.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    parser = ArgumentParser(allow_abbrev=False)
    add_options(parser)

    told, of_locust = parser.parse_known_args(container["args"])
    told.slo = str(COMPONENT / Path(told.slo).name)
    (tmp_path / "key").write_text("hr_a_b\n")
    callers = (COMPONENT / Path(told.callers).name).read_text().replace("/etc/headrace/loadtest-key", str(tmp_path))
    told.callers = str(tmp_path / "callers.toml")
    Path(told.callers).write_text(callers)

    assert read_options(told).slo is not None
    assert [each.headers["authorization"] for each in read_options(told).callers] == ["Bearer hr_a_b"]
    assert {argument.partition("=")[0] for argument in of_locust} == {
        "--headless",
        "--host",
        "--locustfile",
        "--only-summary",
        "--processes",
    }
    assert (ROOT / of_locust[0].partition("=")[2]).is_file()
    assert read_options(told).plan.whole_s < job["spec"]["activeDeadlineSeconds"]
    assert job["spec"]["backoffLimit"] == 0
