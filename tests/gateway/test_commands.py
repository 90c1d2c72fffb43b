import io
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import __version__, commands
from gateway.__main__ import main
from gateway.options import KEYS
from tests.architectures import build


def test_help_names_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    code = commands.serve(["--help"])

    printed = capsys.readouterr().out
    assert code == 0
    assert all(key.flag in printed for key in KEYS)


def test_the_reference_of_all_settings_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    code = commands.print_settings([])

    printed = capsys.readouterr().out
    assert code == 0
    assert all(key.flag in printed for key in KEYS)


def test_wrong_settings_are_reported_all_at_once_with_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    code = commands.serve(["--port", "http", "--prot", "1", "--drain-delay", "-1"])

    lines = capsys.readouterr().err.splitlines()
    assert code == 2
    assert len(lines) == 3
    assert all(any(key in line for line in lines) for key in ("--port", "--prot", "--drain-delay"))


@pytest.mark.parametrize("key", ["--port", "--metrics-port"])
def test_a_port_that_is_taken_is_one_line_with_code_2(key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        other = {"--port": "--metrics-port", "--metrics-port": "--port"}[key]
        done = headrace("serve", key, str(taken.getsockname()[1]), other, "0")

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("headrace: cannot listen on 127.0.0.1:")
    assert f"choose another {key}" in done.stderr


def test_a_host_that_is_none_is_one_line_with_code_2() -> None:
    done = headrace("serve", "--host", "no..host", "--port", "0", "--allow-anonymous")

    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no..host" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [([], 2, "usage"), (["fly"], 2, "no command 'fly'"), (["--help"], 0, "usage"), (["--version"], 0, __version__)],
    ids=str,
)
def test_the_command_line_without_a_command_says_what_there_is(
    arguments: list[str],
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["headrace", *arguments])

    told = main()

    printed = capsys.readouterr()
    assert told == code
    assert said in (printed.err if code else printed.out)


@pytest.mark.skipif(sys.platform != "linux", reason="only there can it be asked which cores there are")
@pytest.mark.parametrize(
    ("cores", "before", "after"), [({0}, None, "false"), ({0}, "true", "true"), ({0, 1}, None, None)], ids=str
)
def test_on_one_core_lists_are_not_tokenised_in_parallel(
    cores: set[int], before: str | None, after: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {} if before is None else {"TOKENIZERS_PARALLELISM": before}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: cores)
    monkeypatch.setattr(sys, "argv", ["headrace", "--version"])

    main()

    assert environment.get("TOKENIZERS_PARALLELISM") == after


def test_models_are_told_without_serving_them(tiny_paths: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    code = commands.models([str(tiny_paths["bert"]), "--threads", "1", f"other={tiny_paths['roberta']}"])

    first, other = capsys.readouterr().out.split("\nother\n")
    assert code == 0
    assert first.startswith("bert\n")
    assert f"folder       {tiny_paths['bert']}\n" in first
    assert "pooling      mean, then length 1\n" in first
    assert "runs" not in first
    assert f"folder       {tiny_paths['roberta']}\n" in other


@pytest.mark.usefixtures("minilm_path")
def test_without_a_place_it_is_the_model_of_serve(capsys: pytest.CaptureFixture[str]) -> None:
    code = commands.models([])

    assert code == 0
    assert capsys.readouterr().out.startswith("all-MiniLM-L6-v2\n")


def test_a_task_is_told_to_models_as_to_serve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = commands.models(["--task", "sparse", "--json", str(build("bert", "MaskedLM", tmp_path))])

    [page] = json.loads(capsys.readouterr().out)
    assert code == 0
    assert (page["card"]["task"], page["card"]["tasks"]) == ("sparse", ["fill-mask", "sparse", "embed"])
    assert (page["loaded"], page["golden"]) == (None, [])


def test_a_card_says_what_the_loaded_model_is(tiny_paths: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    code = commands.models(["--card", str(tiny_paths["mpnet"]), "--device=cpu"])

    printed = capsys.readouterr().out
    assert code == 0
    assert "runs         padded, since its attention ignores the interface\n" in printed
    assert "as           float32 on cpu, 128 tokens, width 64\n" in printed


def test_a_place_that_is_refused_is_one_line_with_code_2_and_the_others_are_told(
    tiny_paths: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unsafe = Path(shutil.copytree(tiny_paths["bert"], tmp_path / "unsafe"))
    (unsafe / "pytorch_model.bin").write_bytes(b"")

    code = commands.models([str(tmp_path / "none"), str(unsafe), str(tiny_paths["bert"])])

    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert code == 2
    assert [line.split(":")[:2] for line in lines] == [["headrace", " model none"], ["headrace", " model unsafe"]]
    assert "pytorch_model.bin can run code" in lines[1]
    assert printed.out.startswith("bert\n")


def test_answers_are_recorded_and_compared(
    tiny_paths: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, file = str(tiny_paths["bert"]), tmp_path / "golden.json"
    monkeypatch.setattr(sys, "stdin", io.StringIO('"w1 w2"\n["w3", "w4 w5"]\n'))
    recorded = commands.models([path, "--record", str(file)])
    capsys.readouterr()

    same = commands.models([path, "--golden", str(file)])
    told = capsys.readouterr().out
    document = json.loads(file.read_text())
    document["cases"][1]["answer"].reverse()
    file.write_text(json.dumps(document))
    other = commands.models([path, "--golden", f"bert={file}"])

    assert (recorded, same, other) == (0, 0, 1)
    assert "golden       case 1: cosine 1, at least 0.9999: ok\n" in told
    assert capsys.readouterr().out.splitlines()[-1].endswith("at least 0.9999: DRIFTED")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a/b", "c/d", "--record", "x.json"], "--record takes one model"),
        (["a b"], "--model: 'a b' is not"),
        (["--prot", "80"], "--prot: is not a setting"),
        (["--golden", "x=y.json"], "no model x is served"),
    ],
)
def test_what_models_cannot_take_is_told_with_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = commands.models(arguments)

    assert code == 2
    assert said in capsys.readouterr().err


def headrace(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_fetch_says_where_the_model_lies(minilm_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = commands.fetch(["--model", f"minilm={minilm_path}"])

    assert code == 0
    assert capsys.readouterr().out == f"minilm - {minilm_path}\n"


def test_what_cannot_be_fetched_is_one_line_with_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = commands.fetch(["--model", str(tmp_path / "absent")])

    lines = capsys.readouterr().err.splitlines()
    assert code == 2
    assert [line.startswith("headrace: ") and "absent" in line for line in lines] == [True]


PROFILE = """[{"model": "m", "curve": {"base_s": 0.006, "token_s": 2e-6, "sequence_s": 0, "square_s": 0},
"max_batch_tokens": 16384, "error_p50": 0.1, "error_p95": 0.2, "capacities": []}]"""
TRACE = "seconds,texts_per_second,tokens_per_text\n0,5000,50\n120,9000,50\n240,0,50\n"


def test_a_plan_names_target_replicas_and_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "profile").write_text(PROFILE)
    (tmp_path / "trace").write_text(TRACE)

    code = commands.plan(
        ["--profile", str(tmp_path / "profile"), "--trace", str(tmp_path / "trace"), "--target-ms", "100"]
    )

    printed = capsys.readouterr().out
    assert code == 0
    assert all(word in printed for word in ("headrace_demand_ratio", "target", "replicas", "GPU-hours", "window"))


@pytest.mark.parametrize(
    ("profile", "trace", "said"),
    [(None, TRACE, "cannot read"), ("[", TRACE, "profile --output"), (PROFILE, "a,b\n", "the columns must be")],
)
def test_a_plan_over_a_bad_file_is_one_line_with_its_name_and_code_2(
    profile: str | None, trace: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if profile is not None:
        (tmp_path / "profile").write_text(profile)
    (tmp_path / "trace").write_text(trace)

    code = commands.plan(
        ["--profile", str(tmp_path / "profile"), "--trace", str(tmp_path / "trace"), "--target-ms", "100"]
    )

    told = capsys.readouterr().err
    assert code == 2
    assert told.count("\n") == 1
    assert said in told and str(tmp_path) in told


@pytest.mark.parametrize("wrong", [["--target-ms", "0"], ["--target-ms", "100", "--gpus", "0"]])
def test_a_plan_for_nothing_is_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.plan(["--profile", "p", "--trace", "t", *wrong]) == 2
    assert "must be above 0" in capsys.readouterr().err
