"""A headless Chromium for tests, spoken to through two pipes in its own protocol; nothing to install beside it."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

from tests.patience import PATIENCE

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


class Browser:
    """One page. https://chromedevtools.github.io/devtools-protocol, messages end in a zero byte."""

    def __init__(self, profile, size=(1200, 1600)):
        (read_theirs, self._write), (self._read, write_theirs) = os.pipe(), os.pipe()
        options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--hide-scrollbars"]
        options += [f"--window-size={size[0]},{size[1]}", "--remote-debugging-pipe", "about:blank"]

        def place():  # the protocol wants descriptors 3 and 4
            a, b = os.dup(read_theirs), os.dup(write_theirs)
            os.dup2(a, 3), os.dup2(b, 4)

        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([CHROMIUM, *options], preexec_fn=place, close_fds=False, **quiet)
        os.close(read_theirs), os.close(write_theirs)
        self._numbers, self._received, self.requests, self.session = itertools.count(1), b"", [], None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "DOM"):
            self.call(f"{domain}.enable")
        screen = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **screen)

    def close(self):
        self.process.terminate()
        self.process.wait(timeout=PATIENCE)
        os.close(self._read), os.close(self._write)

    def call(self, method, timeout=PATIENCE, **parameters):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + timeout
        while True:
            answer = self._message(until)
            if answer.get("method") == "Network.requestWillBeSent":
                self.requests.append(answer["params"]["request"]["url"])
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _message(self, until):
        while b"\0" not in self._received:
            assert select.select([self._read], [], [], max(until - time.monotonic(), 0))[0], "the browser is silent"
            self._received += os.read(self._read, 1 << 20)
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)

    def open(self, address):
        self.call("Page.navigate", url=address)

    def do(self, script):
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, script, timeout=PATIENCE):
        """Until the expression is true."""
        until = time.monotonic() + timeout
        while not self.do(f"!!({script})"):
            assert time.monotonic() < until, f"never true: {script}"
            time.sleep(0.2)

    def choose_file(self, selector, path):
        document = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=document, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(Path(path).absolute())])
        self.do(f"document.querySelector({selector!r}).dispatchEvent(new Event('change', {{bubbles: true}}))")

    def drag(self, *points):
        """Press the mouse at the first point, move over the others, let go at the last."""
        kinds = ["mousePressed", *["mouseMoved"] * (len(points) - 1), "mouseReleased"]
        for kind, (x, y) in zip(kinds, [*points, points[-1]], strict=True):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)
            time.sleep(0.05)

    def screenshot(self, path):
        Path(path).write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
