from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import keyfile
from gateway.caller import Grant
from gateway.keyfile import Keyfile
from gateway.keyring import Keyring
from tests.gateway.keys import key_for


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_key_tells_its_caller_its_id_and_what_they_may(tmp_path: Path) -> None:
    key = key_for(tmp_path / "keys", "search", max_priority=3)

    caller = Keyring(tmp_path / "keys").caller(key)

    assert caller is not None
    assert (caller.name, caller.key, caller.grant) == ("search", key.split("_")[1], Grant(max_priority=3))


def test_several_keys_of_one_caller_live_beside_each_other(tmp_path: Path) -> None:
    old, new = key_for(tmp_path / "keys"), key_for(tmp_path / "keys")
    ring = Keyring(tmp_path / "keys")

    assert [found.name for found in map(ring.caller, (old, new)) if found] == ["search", "search"]


def test_nothing_but_the_whole_key_opens(tmp_path: Path) -> None:
    key, other = key_for(tmp_path / "keys"), key_for(tmp_path / "keys")
    ring = Keyring(tmp_path / "keys")
    id_, secret = key.split("_")[1:]
    hashed = keyfile.read(tmp_path / "keys").keys[0].sha256
    near = [
        *("", "_", "__", "hr_", "hr__", id_, secret, key[:-1], key + "0", key + "\n", key.upper(), " " + key),
        *(f"hr_{id_}_", f"hr_{id_}_{hashed}", f"hr_{id_}_{other.split('_')[2]}", f"hr_{id_}_{secret}_"),
        *(f"HR_{id_}_{secret}", f"xx_{id_}_{secret}", "hr_" + "0" * 16 + "_" + secret, key + "x" * 100_000),
    ]

    assert [shown for shown in near if ring.caller(shown)] == []


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    file = tmp_path_factory.mktemp("ring") / "keys"
    key_for(file)
    return Keyring(file)


@given(shown=st.text())
def test_what_nobody_made_opens_nothing(ring: Keyring, shown: str) -> None:
    assert ring.caller(shown) is None


def test_a_key_opens_until_it_expires(tmp_path: Path) -> None:
    file, now, wall = tmp_path / "keys", keyfile.utc_now(), Clock()
    key, kept = keyfile.make_key("search", now, now + timedelta(hours=1))
    keyfile.write(file, Keyfile({"search": Grant()}, (kept,)))
    ring = Keyring(file, now=wall)

    opened = []
    for wall.now in (now.timestamp(), now.timestamp() + 3599, now.timestamp() + 3601):
        opened.append(ring.caller(key) is not None)

    assert opened == [True, True, False]


def test_a_key_that_is_revoked_opens_nothing_a_second_later_and_a_new_one_does(tmp_path: Path) -> None:
    file, clock, heard = tmp_path / "keys", Clock(), list[int]()
    old = key_for(file)
    ring = Keyring(file, changed=heard.append, clock=clock)

    new = key_for(file)
    content = keyfile.read(file)
    keyfile.write(file, msgspec.structs.replace(content, keys=content.keys[1:]))
    clock.now = 1.0

    assert ring.caller(old) is None
    assert ring.caller(new) is not None
    assert heard == [1]
