"""Every alert fires when it should, and not otherwise: `promtool test rules` over the rules that are shipped."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import skip
from tests.k8s.manifests import ROOT
from tests.k8s.test_metrics import alerts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # three days of rules, on a machine that does much else

MANIFEST = ROOT / "k8s/components/prometheus-rules/rules.yaml"
GPU = 'namespace="n", instance="pod:9090", gpu="0"'
POD = 'namespace="n", pod="headrace-1", container="headrace"'
RESTARTS = f"kube_pod_container_status_restarts_total{{{POD}}}"
EXIT_CODE = f"kube_pod_container_status_last_terminated_exitcode{{{POD}}}"
THROTTLED = "headrace_gpu_throttled"
MOST = 'kube_horizontalpodautoscaler_spec_max_replicas{namespace="n", horizontalpodautoscaler="keda-hpa-headrace"}'

Series = dict[str, str]  # promtool's notation, a value a minute


@dataclass(frozen=True)
class Case:
    """What is scraped, and whether the alert is out at that minute."""

    name: str
    series: Series
    minute: int
    fires: bool = False


def calls(ok: str, refused: str) -> Series:
    """Calls so far, of which the answered ones were in time."""
    labels = 'namespace="n", route="/v1/embeddings"'
    return {
        f'headrace_requests_total{{{labels}, outcome="ok"}}': ok,
        f'headrace_requests_total{{{labels}, outcome="refused"}}': refused,
    }


def answers(fast: str, of: str) -> Series:
    """Answers so far, and those of them that came in time."""
    labels = 'namespace="n", route="/v1/embeddings"'
    return {
        f'headrace_requests_total{{{labels}, outcome="ok"}}': of,
        f"headrace_request_seconds_count{{{labels}}}": of,
        f'headrace_request_seconds_bucket{{{labels}, le="0.1"}}': fast,
    }


def both(name: str, fires: Series, quiet: Series, minute: int) -> list[Case]:
    return [Case(f"{name} fires", fires, minute, fires=True), Case(f"{name} is quiet", quiet, minute)]


CASES: dict[str, list[Case]] = {
    "HeadraceAvailabilityBurnsFast": [
        Case("2 % for an hour", calls("0+1000x300 300000+980x65", "0x300 0+20x65"), 362, fires=True),
        Case("0.7 % for six hours", calls("0+993x400", "0+7x400"), 390, fires=True),
        Case("everything, from the start", {**calls("_x90", "0+100x90")}, 70, fires=True),
        Case("0.5 %", calls("0+995x400", "0+5x400"), 390),
        Case("2 % for an hour, and over", calls("0+980x60 58800+1000x40", "0+20x60 1200x40"), 100),
        Case("10 % for three minutes", calls("0+1000x360 360000+900x3 362700+1000x10", "0x360 0+100x3 300x10"), 365),
        Case("half of 60 calls an hour", calls("0+0.5x90", "0+0.5x90"), 70),
    ],
    "HeadraceAvailabilityBurnsSlowly": [
        Case("0.4 % for a day", calls("0+996x1500", "0+4x1500"), 1490, fires=True),
        Case("0.2 % for three days", calls("0+998x4400", "0+2x4400"), 4390, fires=True),
        Case("0.05 %", calls("0+1999x1500", "0+1x1500"), 1490),
        Case("0.4 % for a day, then over", calls("0+996x1440 1434240+1000x420", "0+4x1440 5760x420"), 1855),
    ],
    "HeadraceLatencyBurnsFast": [
        Case("20 % for an hour", answers("0+100x300 30000+80x65", "0+100x300 30000+100x65"), 362, fires=True),
        Case("7 % for six hours", answers("0+93x400", "0+100x400"), 390, fires=True),
        Case("5 %", answers("0+95x400", "0+100x400"), 390),
        Case("20 % for an hour, and over", answers("0+80x60 4800+100x40", "0+100x100"), 100),
        Case("half of 60 calls an hour", answers("0+0.5x90", "0+1x90"), 70),
    ],
    "HeadraceLatencyBurnsSlowly": [
        Case("4 % for a day", answers("0+96x1500", "0+100x1500"), 1490, fires=True),
        Case("2 % for three days", answers("0+98x4400", "0+100x4400"), 4390, fires=True),
        Case("0.5 %", answers("0+199x1500", "0+200x1500"), 1490),
    ],
    "HeadraceAbsent": [
        Case("nothing is scraped", {"up": "1x20"}, 10, fires=True),
        Case("not for long", {'headrace_build_info{namespace="n"}': "1x5 _x4 1x10"}, 12),
        Case("it is there", {'headrace_build_info{namespace="n"}': "1x20"}, 10),
    ],
    "HeadraceDemandAbsent": [
        Case("pods, and no demand", {'headrace_build_info{namespace="n"}': "1x30"}, 20, fires=True),
        Case("they start", {'headrace_build_info{namespace="n"}': "1x30"}, 14),
        Case(
            "one of two tells",
            {
                'headrace_build_info{namespace="n", pod="1"}': "1x30",
                'headrace_build_info{namespace="n", pod="2"}': "1x30",
                'headrace_demand_ratio{namespace="n", pod="2"}': "0x30",
            },
            20,
        ),
    ],
    "HeadraceAtMaximum": both(
        "demand of 6 with at most 8 and at most 9",
        {'headrace_demand_ratio{namespace="n", pod="1"}': "6x20", MOST: "8x20"},
        {'headrace_demand_ratio{namespace="n", pod="1"}': "6x20", MOST: "9x20"},
        15,
    ),
    "HeadracePodsPending": both(
        "a pod",
        {'kube_pod_status_phase{namespace="n", pod="headrace-1", phase="Pending"}': "1x30"},
        {
            'kube_pod_status_phase{namespace="n", pod="headrace-1", phase="Pending"}': "1x8 0x30",
            'kube_pod_status_phase{namespace="n", pod="other-1", phase="Pending"}': "1x30",
        },
        20,
    ),
    "HeadraceDeviceLost": [
        Case("it ended itself", {RESTARTS: "0x5 1x20", EXIT_CODE: "_x5 1x20"}, 10, fires=True),
        Case("it was killed", {RESTARTS: "0x5 1x20", EXIT_CODE: "_x5 137x20"}, 10),
        Case("long ago", {RESTARTS: "0x5 1x30", EXIT_CODE: "_x5 1x30"}, 30),
    ],
    "HeadraceRestarts": both("three times an hour", {RESTARTS: "0x5 1x5 2x5 3x50"}, {RESTARTS: "0x5 1x5 2x55"}, 55),
    "HeadraceBatchesFail": both(
        "a batch now and then",
        {'headrace_batch_failures_total{namespace="n", model="m", error="OutOfMemory"}': "0+1x40"},
        {'headrace_batch_failures_total{namespace="n", model="m", error="OutOfMemory"}': "7x40"},
        30,
    ),
    "HeadraceGpuErrors": [
        Case("an XID", {f"headrace_gpu_xids_total{{{GPU}}}": "0x5 1x20"}, 10, fires=True),
        Case("memory", {f'headrace_gpu_ecc_errors_total{{{GPU}, kind="uncorrected"}}': "2x5 3x20"}, 10, fires=True),
        Case("corrected", {f'headrace_gpu_ecc_errors_total{{{GPU}, kind="corrected"}}': "2x5 3x20"}, 10),
        Case("none that is new", {f"headrace_gpu_xids_total{{{GPU}}}": "4x30"}, 20),
    ],
    "HeadraceGpuUnseen": both(
        "the driver hangs",
        {'headrace_nvml_up{namespace="n", instance="pod:9090"}': "1x2 0x20"},
        {'headrace_nvml_up{namespace="n", instance="pod:9090"}': "1x2 0x4 1x20"},
        10,
    ),
    "HeadraceGpuHeldBack": both(
        "heat",
        {f'{THROTTLED}{{{GPU}, reason="hardware_thermal"}}': "1x30"},
        {f'{THROTTLED}{{{GPU}, reason="power_cap"}}': "1x30", f'{THROTTLED}{{{GPU}, reason="thermal"}}': "0x25 1x5"},
        28,
    ),
}
LABELS = {  # of a firing alert, beside its severity
    "HeadraceAbsent": {},
    "HeadraceDeviceLost": {"namespace": "n", "pod": "headrace-1", "container": "headrace"},
    "HeadraceRestarts": {"namespace": "n", "pod": "headrace-1", "container": "headrace"},
    "HeadraceBatchesFail": {"namespace": "n", "model": "m", "error": "OutOfMemory"},
    "HeadraceGpuUnseen": {"namespace": "n", "instance": "pod:9090"},
    "HeadraceGpuHeldBack": {"namespace": "n", "instance": "pod:9090", "gpu": "0", "reason": "hardware_thermal"},
}
VALUES = {"HeadraceAtMaximum": "9", "HeadracePodsPending": "1"}


def labels(name: str, case: Case) -> dict[str, str]:
    if name == "HeadraceGpuErrors":
        kind = {"kind": "uncorrected"} if "ecc" in next(iter(case.series)) else {}
        return {"namespace": "n", "instance": "pod:9090", "gpu": "0", **kind}
    return LABELS.get(name, {"namespace": "n"})


def told(alert: dict[str, Any], case: Case) -> dict[str, Any]:
    """The alert as it should arrive: its texts with their blanks filled in."""
    own = labels(alert["alert"], case)
    summary = alert["annotations"]["summary"].replace("{{ $value }}", VALUES.get(alert["alert"], ""))
    for name, value in own.items():
        summary = summary.replace(f"{{{{ $labels.{name} }}}}", value)
    return {
        "exp_labels": own | alert["labels"],
        "exp_annotations": alert["annotations"] | {"summary": summary},
    }


def trial(alert: dict[str, Any], case: Case) -> dict[str, Any]:
    return {
        "name": f"{alert['alert']}: {case.name}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "alert_rule_test": [
            {
                "eval_time": f"{case.minute}m",
                "alertname": alert["alert"],
                "exp_alerts": [told(alert, case)] if case.fires else [],
            }
        ],
    }


def promtool(folder: Path, groups: dict[str, Any], cases: dict[str, list[Case]]) -> subprocess.CompletedProcess[str]:
    """Try cases against rules."""
    if not shutil.which("promtool"):
        skip("promtool is not installed: Debian's package prometheus")
    (folder / "rules.yaml").write_text(yaml.safe_dump(groups))
    tests = [trial(alert, case) for alert in alerts() for case in cases.get(alert["alert"], [])]
    plan = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests}
    (folder / "tests.yaml").write_text(json.dumps(plan))
    command = ["promtool", "test", "rules", folder / "tests.yaml"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def shipped() -> dict[str, Any]:
    return yaml.safe_load(MANIFEST.read_text())["spec"]


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    assert {alert["alert"] for alert in alerts()} == CASES.keys()
    assert all({case.fires for case in cases} == {True, False} for cases in CASES.values())


@pytest.mark.parametrize("name", CASES)
def test_an_alert_fires_when_it_should_and_not_otherwise(name: str, tmp_path: Path) -> None:
    done = promtool(tmp_path, shipped(), {name: CASES[name]})

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("expression", ["vector(1) > 2", "vector(1)"], ids=["never", "always"])
@pytest.mark.parametrize("name", CASES)
def test_an_alert_that_is_broken_is_found(name: str, expression: str, tmp_path: Path) -> None:
    groups = shipped()
    for group in groups["groups"]:
        for rule in group["rules"]:
            if rule.get("alert") == name:
                rule["expr"] = expression

    cases = sorted(CASES[name], key=lambda case: case.minute)
    soonest = [next(case for case in cases if case.fires is fires) for fires in (True, False)]

    assert promtool(tmp_path, groups, {name: soonest}).returncode != 0


def test_prometheus_takes_the_rules(tmp_path: Path) -> None:
    if not shutil.which("promtool"):
        skip("promtool is not installed: Debian's package prometheus")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(shipped()))

    command = ["promtool", "check", "rules", tmp_path / "rules.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
