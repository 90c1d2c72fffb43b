"""What a GPU answers is what a CPU answers, by graphs and without them."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from inference.checkpoint import read_checkpoint
from inference.config import DeviceConfig, EngineConfig, ModelSource
from inference.device import Device
from inference.encoder import Encoder, load_encoder
from inference.engine import Engine
from inference.layout import Bucket
from inference.request import Row, Tokens
from tests.architectures import ARCHITECTURES, LONGEST, VOCABULARY, build
from tests.gpu.large import save_bert
from tests.inference.test_encoder import batch, mixture

CPU = Device(torch.device("cpu"))
ONLY_FLOAT32 = ("deberta", "fnet")  # their own code mixes dtypes, or needs powers of two
EAGER = ("gemma3_text", "mistral", "modernbert-decoder", "xmod")  # their forwards wait for the device
IN_BFLOAT16 = ("gemma", "gemma2", "gemma3_text", "mt5", "t5", "umt5")  # made for its range
BUDGET = 1024  # tokens of the largest graph


def answers(encoder: Encoder, sequences: list[Tokens]) -> list[Row]:
    rows = encoder.launch(batch(sequences)).wait()
    assert all(isinstance(row, np.ndarray) for row in rows), "a row is not finite"
    return [row for row in rows if isinstance(row, np.ndarray)]


def all_answers(encoder: Encoder, work: list[list[Tokens]]) -> list[Row]:
    return [row for sequences in work for row in answers(encoder, sequences)]


def worst(some: list[Row], others: list[Row]) -> float:
    """The largest distance of two answers of length 1."""
    return max(float(np.linalg.norm(a - b)) for a, b in zip(some, others, strict=True))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("bert"), width=256, layers=4)


def loaded(path: Path, device: Device, dtype: torch.dtype = torch.float16) -> Encoder:
    return load_encoder(read_checkpoint("m", path), device, dtype)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_answers_as_on_a_cpu(name: str, gpu: Device, tmp_path: Path) -> None:
    path = build(name, "base", tmp_path)
    work = [mixture(seed, LONGEST - 2, VOCABULARY) for seed in range(3)]
    on_cpu, encoder = loaded(path, CPU, torch.float32), loaded(path, gpu, torch.float32)

    expected = all_answers(on_cpu, work)

    assert worst(all_answers(encoder, work), expected) <= 2e-3
    assert encoder.packed is on_cpu.packed


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in ONLY_FLOAT32])
def test_every_architecture_answers_in_half_precision_and_by_graphs(name: str, gpu: Device, tmp_path: Path) -> None:
    path = build(name, "base", tmp_path)
    work = [mixture(seed, LONGEST - 2, VOCABULARY) for seed in range(3)]
    encoder = Encoder(read_checkpoint("m", path), gpu, torch.bfloat16 if name in IN_BFLOAT16 else torch.float16)
    encoder.choose_packing()

    eager = all_answers(encoder, work)
    recorded = encoder.record_graphs(BUDGET)
    replayed = all_answers(encoder, work)

    drift = worst(eager, all_answers(loaded(path, CPU, torch.float32), work))
    print(
        f"FOUND {name}: {encoder.padded_because or 'packed'}, drift {drift:.1e}, {recorded} graphs, "
        f"{worst(replayed, eager):.1e} off eager"
    )
    assert (recorded > 0) is (encoder.packed and name not in EAGER)
    assert worst(replayed, eager) <= 1e-2
    assert drift <= 0.1  # weights are large, so that mistakes show; and so do roundings


def test_a_graph_answers_as_eager_launches_do_in_every_bucket(bert: Path, gpu: Device) -> None:
    plain, recorded = loaded(bert, gpu), loaded(bert, gpu)
    assert recorded.record_graphs(4096) > 40
    chance = np.random.default_rng(0)

    for tokens in range(1, 4096, 101):
        lengths: list[int] = []
        while sum(lengths) < tokens:
            lengths.append(min(int(chance.integers(1, 400)), tokens - sum(lengths)))
        sequences = [chance.integers(5, 1000, length).astype(np.int32) for length in lengths]

        assert worst(answers(recorded, sequences), answers(plain, sequences)) <= 5e-3


def test_what_the_last_batch_left_behind_changes_nothing(bert: Path, gpu: Device) -> None:
    encoder = loaded(bert, gpu)
    encoder.record_graphs(BUDGET)
    short = [np.arange(5, 25, dtype=np.int32)]
    before = answers(encoder, short)
    graphs = encoder.graphs
    assert graphs is not None

    for _ in range(2):
        with torch.inference_mode():
            graphs.written.fill_(float("nan"))
        encoder.launch(batch(mixture(0, 512, 1000, 3))).wait()

    assert worst(answers(encoder, short), before) <= 1e-6


def test_batches_above_the_largest_graph_run_eagerly(bert: Path, gpu: Device) -> None:
    encoder, plain = loaded(bert, gpu), loaded(bert, gpu)
    encoder.record_graphs(BUDGET)
    large = mixture(1, 512, 1000, 12)
    assert encoder.graphs is not None

    assert encoder.graphs.bucket_for(Bucket(sum(map(len, large)), len(large), 512)) is None
    assert worst(answers(encoder, large), answers(plain, large)) <= 5e-3


def test_a_model_that_half_precision_cannot_run_is_served_in_float32(gpu: Device, tmp_path: Path) -> None:
    path = build("deberta", "base", tmp_path)
    engine = Engine(EngineConfig((ModelSource("m", str(path)),), device=DeviceConfig(("cuda",))))

    engine.load()

    assert engine.models["m"].dtype == "float32"


def test_two_threads_may_launch_at_once(bert: Path, gpu: Device) -> None:
    encoder = loaded(bert, gpu)
    encoder.record_graphs(BUDGET)
    work = [mixture(seed, 60, 1000, 6) for seed in range(40)]
    expected = [answers(encoder, each) for each in work]
    found: dict[int, float] = {}

    def run(mine: range) -> None:
        for number in mine:
            found[number] = worst(answers(encoder, work[number]), expected[number])

    threads = [threading.Thread(target=run, args=(range(start, 40, 2),)) for start in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 40
    assert max(found.values()) <= 1e-5


def test_graphs_are_recorded_while_another_model_runs(bert: Path, gpu: Device) -> None:
    serving, coming = loaded(bert, gpu), loaded(bert, gpu)
    serving.record_graphs(BUDGET)
    sequences = mixture(2, 100, 1000, 6)
    expected, over = answers(serving, sequences), threading.Event()
    differences: list[float] = []

    def serve() -> None:
        while not over.is_set():
            differences.append(worst(answers(serving, sequences), expected))

    thread = threading.Thread(target=serve)
    thread.start()
    recorded = coming.record_graphs(BUDGET)
    over.set()
    thread.join()

    assert recorded > 0
    assert len(differences) > 3
    assert max(differences) <= 1e-5
    assert worst(answers(coming, sequences), expected) <= 1e-5


def test_ten_thousand_batches_leave_no_memory_behind(bert: Path, gpu: Device) -> None:
    encoder = loaded(bert, gpu)
    encoder.record_graphs(BUDGET)
    work = [batch(mixture(seed, 200, 1000, 8)) for seed in range(100)]

    def round_() -> int:
        for each in work:
            encoder.launch(each).wait()
        return torch.cuda.memory_reserved(gpu.place)

    for _ in range(10):
        before = round_()
    for _ in range(90):
        after = round_()

    assert after == before
