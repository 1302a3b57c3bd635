"""Plugin packages to start from: written whole, with tests that pass as they are written.

A kind is a folder of templates (``string.Template``): ``module.py.tmpl``, ``test.py.tmpl``, and what the kind needs beside.
"""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template
from typing import Final

from hardpoint.contract.errors import ConfigError
from hardpoint.contract.version import CONTRACT

#: Folder of templates -> (plugin kind, name of the implementation's class without the plugin's name, summary).
KINDS: Final = {
    "platform": ("platforms", "Platform", "a chip"),
    "attention-backend": ("attention_backends", "Attention", "paged attention"),
    "linear-kernel": ("linear_kernels", "Linear", "a way to multiply"),
    "ops": ("ops", "Ops", "faster ops"),
    "quant-method": ("quant_methods", "Method", "a checkpoint format"),
    "scheduler-policy": ("schedulers", "Policy", "an order of the queue"),
    "route": ("routes", "Routes", "endpoints"),
    "events": ("events", "Listener", "a listener"),
}
_NAME: Final = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaffold:
    """A package to be written.

    Attributes:
        kind: one of :data:`KINDS`.
        name: the plugin's name, which users type.
    """

    kind: str
    name: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"there is no template for {self.kind!r}; there are {', '.join(KINDS)}")
        if not _NAME.fullmatch(self.name) or keyword.iskeyword(self.name):
            raise ConfigError(
                f"{self.name!r} cannot name a plugin: use lower-case words joined by underscores, such as fast_path"
            )

    @property
    def package(self) -> str:
        """The importable package."""
        return f"hardpoint_{self.name}"

    @property
    def distribution(self) -> str:
        """What pip calls it."""
        return f"hardpoint-{self.name.replace('_', '-')}"

    def files(self) -> dict[str, str]:
        """Return the package's files by path below its folder."""
        group, suffix, summary = KINDS[self.kind]
        major, minor = CONTRACT[group]
        words = {
            "name": self.name,
            "package": self.package,
            "distribution": self.distribution,
            "group": group,
            "Class": "".join(word.capitalize() for word in self.name.split("_")) + suffix,
            "contract": f"({major}, {minor})",
            "summary": summary,
        }
        written = {
            "pyproject.toml": _read("common", "pyproject.toml.tmpl"),
            "README.md": _read("common", "README.md.tmpl"),
            f"{self.package}/__init__.py": _read("common", "init.py.tmpl"),
            f"{self.package}/plugin.py": _read(self.kind, "module.py.tmpl"),
            f"tests/test_{self.name}.py": _read(self.kind, "test.py.tmpl"),
        }
        return {path: Template(text).substitute(words) for path, text in written.items()}

    def write(self, folder: Path) -> list[Path]:
        """Write the package into a new folder and return its files.

        Raises:
            ConfigError: when the folder exists and is not empty.
        """
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(f"{folder} exists and is not empty; name another with --folder, or remove it")
        made = []
        for path, text in self.files().items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
            made.append(target)
        return made


def _read(kind: str, name: str) -> str:
    return (resources.files(__name__) / "templates" / kind / name).read_text()
