from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from inference.config import DeviceConfig
from inference.device import open_devices
from inference.errors import CannotServe


@pytest.fixture
def four_threads() -> Iterator[DeviceConfig]:
    before = torch.get_num_threads()
    yield DeviceConfig(("cpu", "cpu"), threads=4)
    torch.set_num_threads(before)


def test_one_device_has_the_name_of_its_place_and_several_on_the_cpu_are_numbered() -> None:
    assert [device.name for device in open_devices(DeviceConfig(("cpu",)))] == ["cpu"]
    assert [device.name for device in open_devices(DeviceConfig(("cpu",) * 3))] == ["cpu:0", "cpu:1", "cpu:2"]


def test_devices_on_the_cpu_share_its_threads_in_every_thread_that_starts_later(four_threads: DeviceConfig) -> None:
    open_devices(four_threads)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 2


def test_one_device_on_the_cpu_has_all_threads(four_threads: DeviceConfig) -> None:
    open_devices(replace(four_threads, devices=("cpu",)))

    assert torch.get_num_threads() == 4


@pytest.mark.parametrize("wanted", [("cpu", "cuda:0"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1"), ()])
def test_devices_are_of_one_kind_and_each_gpu_is_named_once(wanted: tuple[str, ...]) -> None:
    with pytest.raises(CannotServe, match="one kind, and each GPU once"):
        open_devices(DeviceConfig(wanted))
