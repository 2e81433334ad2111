"""Headless Chromium over its debugging pipe: no driver, no port, and nothing to install for it."""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip
NAMES = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")


def find_browser():
    """Return the browser's path, or None."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Chromium:
    """One page in a browser that can reach no host; its messages and requests are kept."""

    def __init__(self, profile, width=1200, height=900):
        read, self._write = os.pipe()
        self._read, write = os.pipe()
        options = [*OPTIONS, f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(  # noqa: S603 -- a browser of the system
            ["/bin/bash", "-c", f'exec "$@" 3<&{read} 4>&{write}', "-", find_browser(), *options],
            pass_fds=(read, write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read)
        os.close(write)
        self._number, self._buffer, self._session = 0, b"", None
        self.events = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.resize(width, height)

    def resize(self, width, height=900):
        """Set the size of the window; below 600 pixels it is a phone."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip

    def send(self, method, **params):
        """Send one command of the DevTools protocol and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + 120
        while True:
            answer = self._next(deadline)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def _next(self, deadline):
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError("Chromium does not answer")
            data = os.read(self._read, 1 << 20)
            if not data:
                raise RuntimeError("Chromium ended")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(line)

    def open(self, file):
        """Open a file, wait until its figures are drawn, and return its count of milliseconds."""
        self.send("Page.navigate", url="about:blank")
        self.send("Page.navigate", url=Path(file).resolve().as_uri())
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            drawn = self.run("document.documentElement?.dataset.drawn || ''")
            if drawn:
                return int(drawn)
            time.sleep(0.1)
        raise TimeoutError(f"figures of {file} were not drawn: {self.complaints()}")

    def run(self, expression):
        """Return the value of a JavaScript expression."""
        answer = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def key(self, name, code):
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if name == "Enter" and kind == "keyDown" else {}
            self.send(
                "Input.dispatchKeyEvent", type=kind, key=name, code=name,
                windowsVirtualKeyCode=code, **text,
            )  # fmt: skip

    def complaints(self):
        """Return the errors and warnings of the page."""
        found = []
        for event in self.events:
            params = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(params["exceptionDetails"].get("text", "exception"))
            elif event.get("method") == "Log.entryAdded":
                if params["entry"]["level"] in ("error", "warning"):
                    found.append(params["entry"]["text"])
            elif event.get("method") == "Runtime.consoleAPICalled" and params["type"] != "log":
                found.append(str([one.get("value") for one in params["args"]]))
        return found

    def requests(self):
        """Return what was requested outside the page itself, the page first."""
        urls = [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]
        return [url for url in urls if not url.startswith(("data:", "blob:", "about:"))]

    def screenshot(self, file, *, whole=False):
        """Write a PNG of what is seen, or of the whole page."""
        picture = self.send("Page.captureScreenshot", captureBeyondViewport=whole)
        Path(file).write_bytes(base64.b64decode(picture["data"]))

    def close(self):
        """End the browser."""
        self._process.terminate()
        self._process.wait(30)
        os.close(self._read)
        os.close(self._write)
