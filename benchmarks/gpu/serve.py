"""A server over random weights of a published shape, loaded as vLLM's was: one JSON line a run.

    python benchmarks/gpu/serve.py [--shape llama-8b] [--runs 4,16,32,inf,1000] [-- further flags of hardpoint serve]

1,024 tokens in and 128 out at 4, 16, 32 requests a second and all at once, then 512 requests of 1,000 in and 1,000 out, in this
order on one server with the same seed, as the published figures were taken: at 4 requests a second the prefix cache is cold,
at 16 the first 120 of 600 prompts are in it, from then on all are. Token-id prompts, no tokenizer.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COMMAND = str(Path(sysconfig.get_path("scripts")) / "hardpoint")
#: Name -> flags of ``hardpoint bench serve``.
RUNS = {
    "4": ("--num-prompts", "120", "--request-rate", "4"),
    "16": ("--num-prompts", "600", "--request-rate", "16"),
    "32": ("--num-prompts", "600", "--request-rate", "32"),
    "inf": ("--num-prompts", "600"),
    "1000": ("--num-prompts", "512", "--input-len", "1000", "--output-len", "1000", "--warm-prompts"),
}
_ADDRESS = re.compile(r"serving at (http://\S+)")
_KEPT = ("num_prompts", "request_rate", "duration", "completed", "failed", "total_input_tokens", "total_output_tokens")


@contextmanager
def server(model: str, flags: Sequence[str], seconds: float) -> Iterator[tuple[str, float]]:
    """Start a server; yield its address and the seconds until it was ready.

    Raises:
        RuntimeError: when it ends or does not come up in time, with the end of its log.
    """
    given = [COMMAND, "serve", model, "--port", "0", "--load-format", "dummy", "--skip-tokenizer-init", *flags]
    with tempfile.TemporaryFile("w+") as log:
        begin = time.monotonic()
        process = subprocess.Popen(given, stdout=log, stderr=log)
        try:
            while True:
                log.seek(0)
                text = log.read()
                if found := _ADDRESS.search(text):
                    break
                if process.poll() is not None or time.monotonic() - begin > seconds:
                    raise RuntimeError(f"the server did not come up within {seconds:.0f} s:\n{text[-3000:]}")
                time.sleep(0.1)
            yield found[1], time.monotonic() - begin
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def load(url: str, name: str, seed: int, seconds: float, client: Sequence[str] = ()) -> dict[str, Any]:
    """Run one of :data:`RUNS` against a server and return its result.

    Raises:
        RuntimeError: when the client fails, or takes longer than ``seconds``.
    """
    given = [COMMAND, "bench", "serve", "--base-url", url, "--seed", str(seed), "--json", *RUNS[name], *client]
    try:
        done = subprocess.run(given, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"run {name} took longer than {seconds:.0f} s") from error
    if done.returncode:
        raise RuntimeError(f"run {name} failed: {done.stderr[-1000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return {key: value for key, value in result.items() if key in _KEPT or "_ms" in key or "throughput" in key}


def rows(
    shape: str, names: Sequence[str], flags: Sequence[str], seconds: float, client: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """Yield a result per run: ``run``, and the numbers or ``error``; the first one is the start.

    Args:
        shape: a published shape, or a model.
        names: of the runs, in order.
        flags: further ones of ``hardpoint serve``.
        seconds: limit of each run.
        client: flags of ``hardpoint bench serve`` that replace a run's own, for small models.
    """
    model = shape if "/" in shape else f"shapes/{shape}"
    with server(model, flags, seconds) as (url, ready):
        yield {"run": "start", "startup_s": round(ready, 2)}
        for name in names:
            try:
                # Ids of a warm-up are nobody's prompt.
                load(url, name, 1000, seconds, ("--num-prompts", "4", "--output-len", "4", "--request-rate", "inf"))
                yield {"run": name, **load(url, name, 0, seconds, client)}
            except RuntimeError as error:
                yield {"run": name, "error": str(error)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="llama-8b")
    parser.add_argument("--runs", default=",".join(RUNS))
    parser.add_argument("--seconds", type=float, default=120.0, help="limit of each run")
    parser.add_argument("--client", default="", help="flags of `hardpoint bench serve` that replace a run's own")
    parser.add_argument("flags", nargs="*", help="flags of `hardpoint serve`")
    given = parser.parse_args(arguments)
    flags = given.flags or ["--platform", "cuda", "--max-num-seqs", "1024", "--max-model-len", "32768"]
    failed = 0
    for row in rows(given.shape, given.runs.split(","), flags, given.seconds, shlex.split(given.client)):
        failed += "error" in row
        print("SERVE " + json.dumps({"shape": given.shape, **row}), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
