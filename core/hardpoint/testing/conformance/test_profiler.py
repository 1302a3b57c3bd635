"""Traces: what ran between start and stop is in a file that trace viewers read, on the Unix clock."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch

from hardpoint.contract.device import Device
from hardpoint.runner.profiling import profiler_of


def test_a_trace_shows_what_ran(device: Device, tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    x = torch.ones(64, 64, device=device.torch_device)
    for _ in range(2):
        profiler = profiler_of(device)
        begin = time.time_ns()
        profiler.start()
        x = x @ x
        x = x / x.max()
        device.synchronize()
        profiler.stop(str(file))
        end = time.time_ns()
        trace = json.loads(file.read_text())
        timed = [event for event in trace["traceEvents"] if event.get("ph") == "X" and event.get("dur", 0) > 0]
        base = trace["baseTimeNanoseconds"]
        ran = [event for event in timed if begin <= base + event["ts"] * 1e3 <= end]
        assert ran, f"none of {len(timed)} events began while it was recorded"
