import os

import psutil
import pytest
import torch

from inference.footprint import free_bytes, peak_bytes, resident_bytes


def test_the_peak_is_what_is_held_at_once_not_what_is_taken_in_all() -> None:
    def run() -> None:
        for _ in range(5):
            first = torch.empty(1000, dtype=torch.float32)
            torch.empty(500, dtype=torch.float32)
            del first

    assert peak_bytes(run, "cpu") == pytest.approx(6000, abs=200)


def test_nothing_is_held_where_nothing_runs() -> None:
    assert peak_bytes(lambda: torch.empty(1000), "cuda:0") == 0


def test_the_process_holds_what_the_system_says() -> None:
    told = psutil.Process(os.getpid()).memory_info().rss

    assert resident_bytes() == pytest.approx(told, rel=0.05)


def test_what_is_free_is_at_most_what_the_machine_has() -> None:
    free = free_bytes("cpu")

    assert free is not None
    assert 0 < free <= psutil.virtual_memory().total
