"""A real browser without a window: Debian's Chromium, driven over its own protocol."""

import base64
import itertools
import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
LISTENING = re.compile(r"DevTools listening on (ws://\S+)")
PATIENCE_S = 60.0  # of a machine that does much else
KEYS = {"Tab": 9, "Enter": 13, " ": 32, "ArrowDown": 40}
CONTROL = 2


def found() -> str | None:
    """The browser's command, if there is one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One tab."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self.complaints: list[str] = []  # errors, and what the content security policy stopped
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol, and return its result."""
        number = next(self._numbers)
        call: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        self._socket.send(json.dumps(call | ({"sessionId": self._session} if self._session else {})))
        while True:
            told = json.loads(self._socket.recv(PATIENCE_S))
            self._note(told)
            if told.get("id") == number:
                assert "error" not in told, told
                return told["result"]

    def open(self, url: str) -> None:
        """Go to an address."""
        self.send("Page.navigate", url=url)
        self.until("location.href !== 'about:blank' && document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        told = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def until(self, script: str, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Wait for what only the page can bring about."""
        give_up = time.monotonic() + PATIENCE_S
        while not self.run(script):
            meanwhile()
            assert time.monotonic() < give_up, f"{script}: {self.run('document.body.innerText')}"
            time.sleep(0.05)

    def press(self, key: str, *, control: bool = False) -> None:
        """Press and release a key."""
        told = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key], "modifiers": CONTROL if control else 0}
        typed = {"Enter": "\r", " ": " "}.get(key, "") if not control else ""
        self.send("Input.dispatchKeyEvent", type="keyDown", **told, **({"text": typed} if typed else {}))
        self.send("Input.dispatchKeyEvent", type="keyUp", **told)

    def write(self, text: str) -> None:
        """Type a text where the focus is."""
        self.send("Input.insertText", text=text)

    def look(self, file: Path, *, width: int, scheme: str) -> None:
        """Take a picture of the whole page, so wide, light or dark."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.send("Emulation.setEmulatedMedia", features=[feature])
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
        taken = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(taken["data"]))

    def _note(self, told: dict[str, Any]) -> None:
        parameters = told.get("params", {})
        if told.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(parameters["exceptionDetails"]))
        if told.get("method") == "Log.entryAdded" and parameters["entry"]["level"] in {"error", "warning"}:
            self.complaints.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")


@contextmanager
def browsing(command: str) -> Iterator[Page]:
    """A browser with one tab."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:  # its helpers may write a moment longer
        options = ["--no-sandbox", "--remote-debugging-port=0", f"--user-data-dir={profile}", "--disable-gpu"]
        process = subprocess.Popen(
            [command, "--headless", *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        try:
            assert process.stderr
            address = next(told for line in process.stderr if (told := LISTENING.search(line)))[1]
            with connect(address, max_size=None) as socket:
                yield Page(socket)
        finally:
            process.kill()
            process.wait()
            if process.stderr:
                process.stderr.close()
