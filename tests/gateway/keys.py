"""Files of keys, and gateways that ask for them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway import keyfile
from gateway.caller import Grant
from gateway.config import AccessConfig, Settings
from gateway.keyfile import Keyfile
from tests.gateway.fakes import FakeEngine, Gateway, ready


def key_for(path: Path, caller: str = "search", **rights: Any) -> str:
    """A new key, whose hash is in the file."""
    with keyfile.changing(path) as file:
        key, kept = keyfile.make_key(caller, keyfile.utc_now())
        keyfile.write(path, Keyfile({**file.callers, caller: Grant(**rights)}, (*file.keys, kept)))
    return key


def keyed(path: Path, settings: Settings | None = None, audit_log: Path | None = None) -> Settings:
    """Settings with that file; what the audit log says is not asked for."""
    audit_log = audit_log or path.with_suffix(".audit")
    return replace(settings or Settings(), access=AccessConfig(keys=path, audit_log=audit_log))


def bearer(key: str) -> dict[str, str]:
    """The header that most clients send."""
    return {"authorization": f"Bearer {key}"}


@asynccontextmanager
async def locked(
    path: Path, engine: FakeEngine | None = None, settings: Settings | None = None, audit_log: Path | None = None
) -> AsyncIterator[Gateway]:
    """A gateway that has started and asks for a key."""
    async with ready(engine, keyed(path, settings, audit_log)) as subject:
        yield subject
