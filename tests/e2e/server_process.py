"""A server process and what tests ask of it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil

SCRIPT = Path(sysconfig.get_path("scripts")) / "hardpoint"
KEY = "e2e-key"
MODEL = "tiny"
#: Long enough for requests that a test ends itself.
CONTEXT = 4096
_START_SECONDS = 180
_ADDRESS = re.compile(r"serving at (http://\S+)")


class ServerProcess:
    """``hardpoint serve`` on a free port."""

    def __init__(self, model: Path, log: Path, *flags: str) -> None:
        command = [str(SCRIPT), "serve", str(model), "--port", "0"]
        # Few cores are shared by all tests: one thread is plenty for a tiny model.
        command += [
            "--served-model-name",
            MODEL,
            "--api-key",
            KEY,
            "--threads",
            "1",
            "--num-gpu-blocks-override",
            "600",
        ]
        self._log_path = log
        self._log = log.open("wb")
        self.process = subprocess.Popen([*command, *flags], stderr=self._log, stdout=self._log)
        self.url = ""
        self.ready_after = 0.0

    def wait_ready(self) -> ServerProcess:
        begin = time.monotonic()
        while time.monotonic() - begin < _START_SECONDS:
            assert self.process.poll() is None, f"the server ended with {self.process.returncode}:\n{self.log}"
            if found := _ADDRESS.search(self.log):
                self.url = found[1]
                try:
                    if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                        self.ready_after = time.monotonic() - begin
                        return self
                except httpx.TransportError:
                    pass
            time.sleep(0.1)
        raise AssertionError(f"the server did not come up:\n{self.log}")

    @property
    def log(self) -> str:
        return self._log_path.read_text(errors="replace")

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0, timeout=120)

    @property
    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=120)

    @property
    def engine_pid(self) -> int:
        children = psutil.Process(self.process.pid).children(recursive=True)
        return next(child.pid for child in children if "hardpoint.engine.process_main" in child.cmdline())

    def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        lines = self.http.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if re.match(rf"hardpoint:{name}(\{{| )", line))

    def terminate(self, seconds: float = 60) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def close(self) -> None:
        try:
            self.terminate()
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self._log.close()


def until(holds: Callable[[], bool], seconds: float = 20) -> bool:
    """Return whether ``holds()`` came true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.1)
    return False


def read_events(text: str) -> list[dict[str, Any]]:
    """Return the chunks of a stream that ended as it should."""
    *events, end, rest = text.split("\n\n")
    assert (end, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]
