"""A headless Chromium that a test talks to over two pipes, by its own protocol: no driver, no port, no package."""

import itertools
import json
import os
import shutil
import subprocess
import time
from contextlib import contextmanager

import pytest

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--window-size=1400,1800",
)


class Tab:
    """A page; `faults` are what its console and its loading have complained of."""

    def __init__(self, write, read):
        self._write, self._read, self._numbers = write, read, itertools.count(1)
        self._held, self._session, self.faults = b"", None, []

    def open(self, url):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for part in ("Runtime", "Log", "Page", "Network"):
            self.call(f"{part}.enable")
        self.call("Page.navigate", url=url)

    def call(self, method, **given):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": given}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            told = self._message()
            if told.get("id") == number:
                assert "error" not in told, told
                return told["result"]
            self._noted(told)

    def value(self, script):
        """What a script comes to, promises included; an error in it is one here."""
        told = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def until(self, script, seconds=90):
        """Wait for a script to come to something true, and return it."""
        end = time.monotonic() + seconds
        while not (found := self.value(script)):
            assert time.monotonic() < end, f"{script}: never; {self.faults}; {self.value('document.body.innerText')}"
            time.sleep(0.1)
        return found

    def _message(self):
        while b"\0" not in self._held:
            more = os.read(self._read, 1 << 16)
            assert more, "the browser has gone"
            self._held += more
        told, _, self._held = self._held.partition(b"\0")
        return json.loads(told)

    def _noted(self, told):
        name, given = told.get("method"), told.get("params", {})
        if name == "Runtime.exceptionThrown":
            self.faults.append(given["exceptionDetails"])
        elif name == "Runtime.consoleAPICalled" and given["type"] in ("error", "warning", "assert"):
            self.faults.append(given["args"])
        elif name == "Log.entryAdded" and given["entry"]["level"] in ("error", "warning"):
            self.faults.append(given["entry"])
        elif name == "Network.requestWillBeSent":
            self.faults += [
                u for u in [given["request"]["url"]] if not u.startswith(("http://127.0.0.1", "data:", "blob:"))
            ]


def chromium():
    """The browser's place; skips where a newcomer has none, and fails in CI."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        assert not os.environ.get("CI"), "CI has a browser"
        pytest.skip("no chromium is at hand")
    return browser


@contextmanager
def browsing(folder):
    """A tab of a browser with its profile in a folder; takes what `chromium` does without one."""
    browser = chromium()
    heard, write = os.pipe()
    read, said = os.pipe()
    told = ["--remote-debugging-pipe", f"--user-data-dir={folder}"]
    plumbed = ["bash", "-c", f'exec "$@" 3<&{heard} 4>&{said}', "bash", browser, *_FLAGS, *told]
    process = subprocess.Popen(plumbed, pass_fds=(heard, said), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    os.close(heard)
    os.close(said)
    try:
        yield (tab := Tab(write, read))
        tab._session = None
        tab.call("Browser.close")
        process.wait(60)
    finally:
        process.kill()
        process.wait()
        os.close(write)
        os.close(read)
