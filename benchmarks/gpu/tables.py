"""Measured rows as files in ``benchmarks/h200`` and as tables in ``benchmarks/RESULTS.md``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import floors
from kernel_tables import kernels_section

HERE: Final = Path(__file__).resolve().parents[1] / "h200"
BEGIN: Final = "<!-- h200: written by benchmarks/gpu/run_all.py -->"
END: Final = "<!-- h200: end -->"
STEPS_BEGIN: Final = "<!-- steps: written by benchmarks/gpu/run_all.py -->"
STEPS_END: Final = "<!-- steps: end -->"
KERNELS_BEGIN: Final = "<!-- kernels: written by benchmarks/gpu/run_all.py -->"
KERNELS_END: Final = "<!-- kernels: end -->"
NOT_MEASURED: Final = "not measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """One number of a row.

    Attributes:
        row: of the group, e.g. ``"mixed_512"``.
        key: of the row's result.
        title: in the table.
        more: whether more is better.
        digits: behind the point.
        theirs: key of vLLM's result, where it differs.
    """

    row: str
    key: str
    title: str
    more: bool = False
    digits: int = 0
    theirs: str = ""


NUMBERS: Final = (
    Number(row="latency_b1", key="tpot_ms", title="`latency_b1`: time per output token, ms", digits=3),
    Number(row="latency_b1", key="ttft_ms", title="`latency_b1`: time to first token, ms", digits=1),
    Number(row="batch_32", key="out_tok_s", title="`batch_32`: output tokens/s", more=True),
    Number(row="batch_128", key="out_tok_s", title="`batch_128`: output tokens/s", more=True),
    Number(row="prefill_64x4096", key="total_tok_s", title="`prefill_64x4096`: tokens/s", more=True),
    Number(row="mixed_512", key="out_tok_s", title="`mixed_512`: output tokens/s", more=True),
    Number(row="shared_prefix_256", key="median_s", title="`shared_prefix_256`: s", digits=3, theirs="s"),
    Number(row="long_32k_b8", key="median_s", title="`long_32k_b8`: s", digits=2, theirs="s"),
    Number(row="start", key="startup_s", title="start to ready, s", digits=1),
)
SERVED: Final = tuple(
    Number(row=run, key=key, title=f"{title}: {what}", more=more, digits=digits)
    for run, title in (
        ("4", "4 requests/s, cold cache"),
        ("16", "16 requests/s"),
        ("32", "32 requests/s, warm"),
        ("inf", "600 at once, warm"),
        ("1000", "512 of 1,000/1,000 at once, warm"),
    )
    for key, what, more, digits in (
        ("median_ttft_ms", "time to first token, ms", False, 1),
        ("median_tpot_ms", "per output token, ms", False, 2),
        ("output_throughput", "output tokens/s", True, 0),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A shape in an element type.

    Attributes:
        name: of its file.
        title: of its table.
        shape: published.
        settings: of the engine, beside the common ones.
        rows: workloads, in the order in which they are run.
        weight_bytes, kv_element: bytes of a weight and of a cached number, for the floor.
        goals: (row, key) -> what was aimed at.
    """

    name: str
    title: str
    shape: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[str] = tuple(floors.WORKLOADS)
    weight_bytes: int = 2
    kv_element: int = 2
    goals: Mapping[tuple[str, str], float] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        """Return what ``LLM`` is called with."""
        common = {
            "model": f"shapes/{self.shape}",
            "load_format": "dummy",
            "skip_tokenizer_init": True,
            "platform": "cuda",
            "max_model_len": 32768,
            "max_num_seqs": 512,
        }
        return {**common, **self.settings}

    def vllm(self) -> dict[str, Any]:
        """Return vLLM's rows, empty where it was not measured."""
        known = json.loads((HERE / "vllm.json").read_text(encoding="utf-8"))
        found: dict[str, Any] = known.get(self.name, {})
        return {**found, "start": {"startup_s": found["startup_s"]}} if "startup_s" in found else found

    def floor(self, number: Number) -> float | None:
        """Return the floor of a number, ``None`` where there is none."""
        if number.row not in floors.WORKLOADS or not self.shape or self.name.startswith("serve"):
            return None
        found = floors.row(self.shape, number.row, self.weight_bytes, self.kv_element)
        return found.get("s" if number.key == "median_s" else number.key)


_SHORT: Final = ("latency_b1", "batch_32", "batch_128", "prefill_64x4096", "mixed_512")
_FP8: Final = {"quantization": "fp8"}
_ALL: Final = (
    Group(
        name="llama-8b_bf16",
        title="llama-8b, bfloat16",
        shape="llama-8b",
        goals={
            ("latency_b1", "tpot_ms"): 4.0,
            ("latency_b1", "ttft_ms"): 25,
            ("batch_32", "out_tok_s"): 3800,
            ("batch_128", "out_tok_s"): 6000,
            ("prefill_64x4096", "total_tok_s"): 42500,
            ("mixed_512", "out_tok_s"): 13000,
            ("shared_prefix_256", "median_s"): 1.7,
            ("long_32k_b8", "median_s"): 9.8,
            ("start", "startup_s"): 15,
        },
    ),
    Group(
        name="llama-8b_fp8",
        title="llama-8b, 8-bit weights and activations",
        shape="llama-8b",
        settings=_FP8,
        rows=_SHORT,
        weight_bytes=1,
        goals={
            ("latency_b1", "tpot_ms"): 2.5,
            ("latency_b1", "ttft_ms"): 16,
            ("mixed_512", "out_tok_s"): 17500,
        },
    ),
    Group(
        name="qwen3-0.6b_bf16",
        title="qwen3-0.6b, bfloat16",
        shape="qwen3-0.6b",
        goals={("latency_b1", "tpot_ms"): 0.8, ("mixed_512", "out_tok_s"): 35000},
    ),
    Group(
        name="qwen3-30b-a3b_bf16",
        title="qwen3-30b-a3b, bfloat16",
        shape="qwen3-30b-a3b",
        rows=_SHORT,
        goals={("latency_b1", "tpot_ms"): 3.0, ("mixed_512", "out_tok_s"): 11000},
    ),
    Group(
        name="llama-8b_fp8_kv8",
        title="llama-8b, 8-bit weights, activations and cache",
        shape="llama-8b",
        settings={**_FP8, "kv_cache_dtype": "float8_e4m3fn"},
        rows=("latency_b1", "mixed_512", "long_32k_b8"),
        weight_bytes=1,
        kv_element=1,
        goals={("mixed_512", "out_tok_s"): 21000},
    ),
    Group(
        name="qwen3-0.6b_fp8",
        title="qwen3-0.6b, 8-bit weights and activations",
        shape="qwen3-0.6b",
        settings=_FP8,
        rows=_SHORT,
        weight_bytes=1,
    ),
    Group(
        name="qwen3-30b-a3b_fp8",
        title="qwen3-30b-a3b, 8-bit weights and activations",
        shape="qwen3-30b-a3b",
        settings=_FP8,
        rows=_SHORT,
        weight_bytes=1,
    ),
    Group(
        name="serve_llama-8b_bf16",
        title="llama-8b, bfloat16, behind HTTP",
        shape="llama-8b",
        rows=("4", "16", "32", "inf", "1000"),
        goals={
            ("4", "median_ttft_ms"): 30,
            ("4", "median_tpot_ms"): 4.5,
            ("1000", "output_throughput"): 13500,
        },
    ),
)
#: Name -> group, in the order in which they are run and shown.
GROUPS: Final = {group.name: group for group in _ALL}


def read_rows(logs: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Yield the rows that were printed to logs, in order; lines that are none are passed over."""
    for log in logs:
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            if not line.startswith("ROW "):
                continue
            try:
                found = json.loads(line.removeprefix("ROW "))
            except json.JSONDecodeError:
                # The last line of a run that was cut short.
                continue
            if "group" in found and "row" in found:
                yield found


def read_steps(logs: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Yield the breakdowns that ``step.py`` printed to logs."""
    for log in logs:
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("STEP "):
                yield json.loads(line.removeprefix("STEP "))


def keep_steps(found: Iterable[dict[str, Any]], folder: Path = HERE) -> None:
    """Write breakdowns to ``steps.json``; one replaces that of the same shape, settings and batch."""
    path = folder / "steps.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    by_key = {_step_key(step): step for step in [*known, *found]}
    if by_key:
        path.write_text(json.dumps(list(by_key.values()), indent=1) + "\n", encoding="utf-8")


def _step_key(step: Mapping[str, Any]) -> str:
    return json.dumps([step["shape"], step["settings"], step["batch"], step["context"]])


def steps_table(folder: Path = HERE) -> str:
    """Return the breakdowns as a table in Markdown, microseconds."""
    path = folder / "steps.json"
    steps = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    if not steps:
        return NOT_MEASURED.capitalize() + "."
    lines = [
        "| shape | batch | context | step | in kernels | floor | by part | measured, UTC |",
        "|---|---:|---:|---:|---:|---:|---|---|",
    ]
    for step in steps:
        floor = step["floors_us"]
        parts = ", ".join(
            f"{name} {spent:,.0f}" + (f" (floor {floor[name]:,.0f})" if name in floor else "")
            for name, spent in step["parts_us"].items()
            if spent >= 1
        )
        settings = "".join(f", {name}={value}" for name, value in step["settings"].items())
        numbers = " | ".join(f"{step[key]:,.0f}" for key in ("wall_us", "kernels_us", "floor_us"))
        lines.append(
            f"| {step['shape']}{settings} | {step['batch']} | {step['context']:,} | {numbers} | {parts} | {step['measured']} |"
        )
    return "\n".join(lines)


def keep(rows: Iterable[dict[str, Any]], folder: Path = HERE) -> None:
    """Write rows to ``folder``, a file a group; a row replaces what was there, a failed one replaces nothing.

    Each row names, by digest, the record of the engine that gave it.
    """
    records: dict[str, str] = {}
    files: dict[str, dict[str, Any]] = {}
    for row in rows:
        group, name = row.pop("group"), row.pop("row")
        if group not in GROUPS:
            continue
        path = folder / f"{group}.json"
        if group not in files:
            files[group] = (
                json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"records": {}, "rows": {}}
            )
        if "record" in row:
            record = row.pop("record")
            records[group] = record["digest"]
            files[group]["records"][record["digest"]] = record
        if "error" in row:
            files[group].setdefault("failed", {})[name] = row
            continue
        files[group].get("failed", {}).pop(name, None)
        files[group]["rows"][name] = {**row, "digest": records.get(group, "")}
    for group, data in files.items():
        used = {row["digest"] for row in data["rows"].values()}
        data["records"] = {digest: record for digest, record in data["records"].items() if digest in used}
        (folder / f"{group}.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def render(results: Path, folder: Path = HERE) -> None:
    """Replace the generated part of the results by tables of what ``folder`` holds.

    Raises:
        ValueError: when the results have no generated part.
    """
    text = results.read_text(encoding="utf-8")
    text = _replaced(text, BEGIN, END, "\n".join(table(group, folder) for group in GROUPS.values()))
    text = _replaced(text, STEPS_BEGIN, STEPS_END, steps_table(folder) + "\n")
    text = _replaced(text, KERNELS_BEGIN, KERNELS_END, kernels_section(folder))
    results.write_text(text, encoding="utf-8")


def _replaced(text: str, begin: str, end: str, part: str) -> str:
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"there is no part between {begin!r} and {end!r}")
    return f"{before}{begin}\n\n{part}\n{end}{after}"


def table(group: Group, folder: Path = HERE) -> str:
    """Return a group's table in Markdown."""
    path = folder / f"{group.name}.json"
    data = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": {}}
    served = group.name.startswith("serve")
    numbers = SERVED if served else tuple(n for n in NUMBERS if n.row == "start" or n.row in group.rows)
    lines = [f"### {group.title}", ""]
    if served:
        lines += ["| run | vLLM 0.24.0 | Hardpoint | times vLLM | goal |", "|---|---:|---:|---:|---:|"]
    else:
        lines += [
            "| workload | vLLM 0.24.0 | Hardpoint, median | spread | times vLLM | floor | of the floor | goal |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
    vllm = group.vllm()
    for number in numbers:
        mine = data["rows"].get(number.row, {})
        value, other = mine.get(number.key), vllm.get(number.row, {}).get(number.theirs or number.key)
        cells = [number.title, _cell(other, number), _cell(value, number)]
        if not served:
            cells.append(f"{mine['spread']:.1%}" if value is not None and "spread" in mine else "")
        cells.append(_ratio(value, other, number))
        if not served:
            floor = group.floor(number)
            cells += [
                "" if floor is None else f"{floor:,.{number.digits}f}",
                "" if value is None or floor is None else f"{_times(value, floor, number):.0%}",
            ]
        goal = group.goals.get((number.row, number.key))
        cells.append("" if goal is None else f"{goal:,g}" + _met(value, goal, number))
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *_notes(data), ""]
    return "\n".join(lines)


def _notes(data: Mapping[str, Any]) -> Iterator[str]:
    for name, row in data.get("failed", {}).items():
        yield f"`{name}` failed: {row['error']}"
    slow = [
        f"`{name}` {row['first_s']:.2f} s"
        for name, row in data["rows"].items()
        if row.get("first_s") and row["first_s"] > 1.2 * row["median_s"]
    ]
    if slow:
        yield "The first run of a workload prepares what it needs and is not counted: " + ", ".join(slow) + "."


def _cell(value: float | None, number: Number) -> str:
    return NOT_MEASURED if value is None else f"{value:,.{number.digits}f}"


def _times(value: float, other: float, number: Number) -> float:
    """Return how many times as good ``value`` is as ``other``."""
    return value / other if number.more else other / value


def _ratio(value: float | None, other: float | None, number: Number) -> str:
    return "" if not value or not other else f"{_times(value, other, number):.2f}"


def _met(value: float | None, goal: float, number: Number) -> str:
    if value is None:
        return ""
    return ": met" if _times(value, goal, number) >= 1 else ": missed"
