"""Throwaway distributions: a module beside a ``.dist-info``, as an installer leaves them."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, distributions
from pathlib import Path

import pytest

_numbers = itertools.count()


def descriptor(kind: str, name: str, implementation: str, contract: str = "(1, 0)", **more: object) -> str:
    """Return the source of a descriptor named ``D``."""
    extra = "".join(f", {key}={value!r}" for key, value in more.items())
    return textwrap.dedent(f"""
        from hardpoint.contract.descriptor import Descriptor
        D = Descriptor(kind={kind!r}, name={name!r}, contract={contract}, implementation={implementation!r}{extra})
    """)


@dataclass
class Site:
    """A folder of installed distributions on ``sys.path``."""

    path: Path

    def add(
        self, distribution: str, modules: dict[str, str], entries: dict[str, dict[str, str]], version: str = "1.0"
    ) -> None:
        """Install ``modules`` (name -> source) and entry points (kind -> name -> target)."""
        for module, source in modules.items():
            (self.path / f"{module}.py").write_text(textwrap.dedent(source))
        info = self.path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        sections = [
            f"[hardpoint.{kind}]\n" + "".join(f"{name} = {target}\n" for name, target in points.items())
            for kind, points in entries.items()
        ]
        (info / "entry_points.txt").write_text("\n".join(sections))

    def points(self) -> list[EntryPoint]:
        """Return the entry points of what is installed here."""
        return [point for found in distributions(path=[str(self.path)]) for point in found.entry_points]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.syspath_prepend(str(tmp_path))
    return Site(tmp_path)


@pytest.fixture
def policy(site: Site) -> Callable[..., str]:
    """Install a scheduling policy whose parts can be made wrong; returns its name.

    ``head`` is put before the descriptor, ``body`` replaces the implementation's module.
    """

    def install(
        distribution: str = "vendor-x",
        name: str = "tidy",
        *,
        head: str = "",
        body: str | None = None,
        version: str = "1.0",
        contract: str = "(1, 0)",
        requires: Iterable[str] = (),
        **more: object,
    ) -> str:
        module = f"throwaway_{next(_numbers)}"
        good = """
            class Policy:
                name = "tidy"
                def key(self, request):
                    return (float(request.order),)
        """
        described = descriptor("schedulers", name, f"{module}_code:Policy", contract, requires=tuple(requires), **more)
        site.add(
            distribution,
            {module: textwrap.dedent(head) + described, f"{module}_code": good if body is None else body},
            {"schedulers": {name: f"{module}:D"}},
            version,
        )
        return name

    return install
