"""Launches of kernels that are compiled already."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton")


class Form:
    """What compiling a kernel gives."""

    def __init__(self, log: list[Any]) -> None:
        self.log = log

    def __getitem__(self, grid: tuple[int, int, int]) -> Any:
        return lambda *args: self.log.append(("again", grid, args))


class Kernel(Form):
    """Compiles a new form in each call."""

    def __getitem__(self, grid: tuple[int, int, int]) -> Any:
        def call(*args: Any, **constants: Any) -> Form:
            self.log.append(("first", grid, args, constants))
            return Form(self.log)

        return call


def test_a_form_is_launched_again_by_its_key_with_its_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    from hardpoint_triton import launches

    monkeypatch.setattr(launches, "CompiledKernel", Form)
    log: list[Any] = []
    calls = launches.Launches(Kernel(log))
    cpu = torch.device("cpu")
    assert not calls.again("a", (1, 1, 1), 7)
    calls.first("a", (1, 1, 1), 7, device=cpu, warps=4, SIZE=64)
    assert calls.again("a", (2, 1, 1), 8)
    assert not calls.again("b", (2, 1, 1), 8)
    calls.first("b", (2, 1, 1), 8, device=cpu, warps=4, SIZE=32)
    assert calls.again("b", (3, 1, 1), 9)
    assert log == [
        ("first", (1, 1, 1), (7,), {"SIZE": 64, "num_warps": 4, "PDL": False}),
        ("again", (2, 1, 1), (8, 64, False)),
        ("first", (2, 1, 1), (8,), {"SIZE": 32, "num_warps": 4, "PDL": False}),
        ("again", (3, 1, 1), (9, 32, False)),
    ]


def test_what_the_interpreter_runs_is_not_kept() -> None:
    from hardpoint_triton.launches import Launches

    calls = Launches(Kernel([]))
    calls.first("a", (1, 1, 1), device=torch.device("cpu"), warps=1)
    assert not calls.again("a", (1, 1, 1))
