"""Every row of the tables: shapes x element types x workloads, three times each; a JSON line as each is measured.

    python benchmarks/gpu/run_all.py run [--groups llama-8b_bf16,...] [--rows latency_b1,...] [--budget 900] [--keep FILE]
    python benchmarks/gpu/run_all.py keep LOG...       # lines of other runs' output into benchmarks/h200
    python benchmarks/gpu/run_all.py render            # tables of benchmarks/RESULTS.md from benchmarks/h200

A group (shape and element type) is a process of its own, so that a fault costs one row: the row is told as failed and the
group goes on behind it. Rows that ``--keep FILE`` holds already are not run again. A row that does not fit into what is left
of ``--budget`` is not begun. Every line begins with ``ROW``; a run that is cut short has printed what it measured.
"""

from __future__ import annotations

import argparse
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from arguments import add_settings, settings_of
from tables import GROUPS, HERE, Group, keep, keep_steps, read_rows, read_steps, render

from hardpoint.bench.workloads import WORKLOADS

MARK: Final = "ROW "
#: Seconds that starting an engine may take, and least seconds of a row.
START_SECONDS: Final = 90.0
LEAST_SECONDS: Final = 30.0
#: Repetitions; the quick ones are cheap and vary more.
REPETITIONS: Final = {"latency_b1": 5, "batch_32": 4}
DEFAULT_REPETITIONS: Final = 3
#: Seconds from which a workload is not run whole before its repetitions.
DEAR_SECONDS: Final = 7.0


def limit(group: Group, row: str, repetitions: int) -> float:
    """Return the seconds after which a row is given up: all its runs at half of vLLM's speed, and what is prepared."""
    return LEAST_SECONDS + (repetitions + 1) * 2 * expected(group, row)


def expected(group: Group, row: str) -> float:
    """Return the seconds of a run, by vLLM's, in 16 bits where it was not run in 8; a guess where it was not run at all."""
    for name in (group.name, f"{group.shape}_bf16"):
        if (known := GROUPS[name].vllm().get(row, {}).get("s")) is not None:
            return float(known)
    return 10.0


def measure_group(group: Group, rows: Sequence[str], settings: dict[str, Any], emit: Any) -> None:
    """Open an engine and measure rows; called in a process of its own."""
    begin = time.perf_counter()
    from hardpoint import LLM
    from hardpoint.bench.workloads import Load, fixed
    from hardpoint.cli.bench_workload import measure, measured, run
    from hardpoint.cli.measure import record

    llm = LLM(**{**group.arguments(), **settings})
    emit({"row": "start", "startup_s": round(time.perf_counter() - begin, 2), "record": record(llm.info)})
    run(llm, fixed(8, 256, 16, llm.info.vocab_size, seed=99))
    for name in rows:
        workload = WORKLOADS[name]
        loads = workload.generate(llm.info.vocab_size, 0)
        repetitions = REPETITIONS.get(name, DEFAULT_REPETITIONS)
        # What is prepared or planned when a size is first seen is no part of the repetitions.
        cheap = expected(group, name) < DEAR_SECONDS
        before = loads if cheap else [Load(load.prompt, max(1, load.output_len // 10)) for load in loads]
        first = measure(llm, before, 1)["median_s"] if cheap or name == "mixed_512" else None
        result = measured(llm, workload, loads, repetitions)
        emit({"row": name, "first_s": first if cheap else None, **result, "metrics": llm.get_metrics()})
    llm.close()


class Child:
    """A process that measures rows of one group and prints them.

    Args:
        group: what to open.
        rows: what to measure.
        settings: of the engine, ``NAME=VALUE`` each, beside the group's.
    """

    def __init__(self, group: Group, rows: Sequence[str], settings: Sequence[str]) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), "child", group.name, ",".join(rows), *settings]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._tail: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def next(self, seconds: float) -> dict[str, Any]:
        """Return the next row, or ``{"error": why}`` when none came in time or the process ended."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return {"error": f"not done within {seconds:.0f} s"}
            if line is None:
                return {"error": " | ".join(self._tail[-4:])[-600:] or f"ended with {self._process.wait()}"}
            if line.startswith(MARK):
                found: dict[str, Any] = json.loads(line.removeprefix(MARK))
                return found
            if line.strip():
                self._tail.append(line.strip())

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


def run_group(group: Group, rows: Sequence[str], settings: Sequence[str], deadline: float) -> Iterator[dict[str, Any]]:
    """Yield results of rows; one that fails or hangs is told, and a new process goes on behind it."""
    left = list(rows)
    while left:
        if time.monotonic() + LEAST_SECONDS > deadline:
            return
        child = Child(group, left, settings)
        try:
            started = child.next(min(START_SECONDS, deadline - time.monotonic()))
            yield {"row": "start", **started}
            if "error" in started:
                return
            while left:
                row = left.pop(0)
                allowed = limit(group, row, REPETITIONS.get(row, DEFAULT_REPETITIONS))
                room = deadline - time.monotonic()
                if room < LEAST_SECONDS / 2:
                    return
                found = child.next(min(allowed, room))
                yield {"row": row, **found}
                if "error" in found:
                    break
        finally:
            child.close()


def command_run(given: argparse.Namespace) -> int:
    """Measure what is asked for and is not kept yet."""
    deadline, failed = time.monotonic() + given.budget, 0
    file = Path(given.keep) if given.keep else None
    done = {(r["group"], r["row"]) for r in read_rows([file]) if "error" not in r} if file and file.exists() else set()
    for name in given.groups.split(","):
        group = GROUPS[name]
        wanted = [row for row in (given.rows.split(",") if given.rows else group.rows) if (name, row) not in done]
        source = (
            run_serve(given, deadline) if name.startswith("serve") else run_group(group, wanted, given.set, deadline)
        )
        for found in source if wanted else ():
            failed += "error" in found
            line = json.dumps({"group": name, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **found})
            print(MARK + line, flush=True)
            if file:
                with file.open("a") as out:
                    out.write(MARK + line + "\n")
    return 1 if failed else 0


def run_serve(given: argparse.Namespace, deadline: float) -> Iterator[dict[str, Any]]:
    """Yield the server's runs."""
    import serve

    flags = ["--platform", "cuda", "--max-num-seqs", "1024", "--max-model-len", "32768"]
    names = [name for name in (given.rows.split(",") if given.rows else serve.RUNS) if name in serve.RUNS]
    try:
        for row in serve.rows("llama-8b", names, flags, 120.0):
            yield {"row": row.pop("run"), **row}
            if time.monotonic() > deadline:
                return
    except RuntimeError as error:
        yield {"row": "start", "error": str(error)}


def _print(row: dict[str, Any]) -> None:
    print(MARK + json.dumps(row, default=str), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--groups", default=",".join(GROUPS))
    run.add_argument("--rows", help="workloads, all of a group's by default")
    run.add_argument("--budget", type=float, default=3600.0, help="seconds in all")
    run.add_argument("--keep", help="file of rows: what it holds is not run again, what is measured is added")
    add_settings(run)
    child = commands.add_parser("child")
    child.add_argument("group")
    child.add_argument("rows")
    child.add_argument("settings", nargs="*")
    kept = commands.add_parser("keep")
    kept.add_argument("logs", nargs="+", type=Path)
    commands.add_parser("render")
    given = parser.parse_args(arguments)
    if given.command == "run":
        return command_run(given)
    if given.command == "child":
        settings = settings_of(given.settings)
        measure_group(GROUPS[given.group], given.rows.split(","), settings, _print)
    elif given.command == "keep":
        keep(read_rows(given.logs))
        keep_steps(read_steps(given.logs))
        render(HERE.parent / "RESULTS.md")
    else:
        render(HERE.parent / "RESULTS.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
