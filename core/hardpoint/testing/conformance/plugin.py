"""The conformance suite as a pytest plugin: ``pytest --pyargs hardpoint.testing.conformance --platform acme``.

It offers the parts of the platform under test as fixtures, skips what the platform refuses with its reasons, and ends with
a report by group. Without ``--platform`` the suite's own tests are not collected, so that the plugin costs other test
suites nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from hardpoint.config import EngineConfig
    from hardpoint.contract.device import Capabilities, Device, DeviceInfo
    from hardpoint.contract.platform import Platform
    from hardpoint.plugins import Catalogue

HERE: Final = Path(__file__).parent
#: Of a skip: the platform does not claim it, or refused it with reasons.
REFUSED: Final = "refused: "


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("hardpoint", "hardware conformance (hardpoint)")
    group.addoption("--platform", metavar="NAME", help="the platform plugin to hold against its contract")
    group.addoption("--platform-device", metavar="N", type=int, default=0, help="which of its devices (default 0)")
    group.addoption(
        "--allow-plugins",
        metavar="DISTRIBUTION",
        action="append",
        default=[],
        help="distributions whose plugins may be loaded (default: the platform's own)",
    )
    group.addoption("--conformance-json", metavar="FILE", help="write what passed, failed and was refused, and why")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the suite's tests alone unless a platform is named."""
    inside = HERE in collection_path.parents and collection_path.name.startswith("test_")
    return True if inside and not config.getoption("--platform") else None


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--platform") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Report(config), "hardpoint-conformance-report")


def refuse(reasons: list[str] | str) -> None:
    """Skip the test: the platform does not claim what it asks for.

    Raises:
        pytest.skip.Exception: always.
    """
    pytest.skip(REFUSED + (reasons if isinstance(reasons, str) else "; ".join(reasons)))


@pytest.fixture(scope="session")
def allowed(pytestconfig: pytest.Config) -> tuple[str, ...]:
    """Distributions whose plugins the suite may load."""
    named = pytestconfig.getoption("--allow-plugins")
    if named:
        return tuple(named)
    from hardpoint.plugins import Catalogue

    wanted = pytestconfig.getoption("--platform")
    return tuple(r.distribution for r in Catalogue(("*",)).records if (r.kind, r.name) == ("platforms", wanted))


@pytest.fixture(scope="session")
def catalogue(allowed: tuple[str, ...]) -> Catalogue:
    """The plugins that may be loaded."""
    from hardpoint.plugins import Catalogue

    return Catalogue(allowed)


@pytest.fixture(scope="session")
def platform(pytestconfig: pytest.Config, catalogue: Catalogue) -> Platform:
    """The platform under test; its probe has found a device."""
    made: Platform = catalogue.create("platforms", pytestconfig.getoption("--platform"))
    reason = made.probe()
    if reason is not None:
        pytest.exit(f"platform {made.name!r} has no device here: {reason}", returncode=pytest.ExitCode.USAGE_ERROR)
    return made


@pytest.fixture(scope="session")
def info(platform: Platform, pytestconfig: pytest.Config) -> DeviceInfo:
    """The device under test, as described without opening it."""
    index: int = pytestconfig.getoption("--platform-device")
    return platform.devices()[index]


@pytest.fixture(scope="session")
def caps(platform: Platform, info: DeviceInfo) -> Capabilities:
    """What the device claims."""
    return platform.capabilities(info)


@pytest.fixture(scope="session")
def config(platform: Platform, allowed: tuple[str, ...]) -> EngineConfig:
    """A configuration that names the platform and is otherwise the default."""
    from hardpoint.config import EngineConfig

    return EngineConfig.of(platform=platform.name, allow_plugins=allowed)


@pytest.fixture(scope="session")
def device(platform: Platform, info: DeviceInfo, config: EngineConfig) -> Iterator[Device]:
    """The device under test, open for the whole session in an environment like a worker's."""
    from hardpoint.contract.platform import RunnerPlatform

    if isinstance(platform, RunnerPlatform):
        refuse("the platform runs whole models; there is no torch device")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in platform.launch(config).env.items():
            patch.setenv(name, value)
        opened = platform.open(info.index, config)
        yield opened
        opened.close()


class Report:
    """Counts outcomes by group (test module) and writes them down.

    Args:
        config: pytest's.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._platform = config.getoption("--platform")
        self._file = config.getoption("--conformance-json")
        self._cases: list[dict[str, str]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note one test's outcome; a failure of its set-up or tear-down is a failure of the test."""
        if report.when == "call" or report.outcome != "passed":
            group = report.nodeid.split("::")[0].rsplit("/", 1)[-1].removeprefix("test_").removesuffix(".py")
            outcome, reason = _outcome(report)
            self._cases.append({"group": group, "case": report.nodeid, "outcome": outcome, "reason": reason})

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the groups and the line that sums them up; write the JSON."""
        if not self._cases:
            return
        total = Counter(case["outcome"] for case in self._cases)
        terminalreporter.section(f"conformance of platform {self._platform}")
        for group in sorted({case["group"] for case in self._cases}):
            counts = Counter(case["outcome"] for case in self._cases if case["group"] == group)
            line = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
            terminalreporter.write_line(f"  {group:<14} {line}", red=bool(counts["failed"]))
        reasons = Counter(case["reason"] for case in self._cases if case["outcome"] == "refused")
        for reason, count in reasons.most_common():
            terminalreporter.write_line(f"  refused {count:>4}: {reason}")
        terminalreporter.write_line(self.badge(total))
        if self._file:
            record = {"platform": self._platform, **versions(), "totals": dict(total), "cases": self._cases}
            Path(self._file).write_text(json.dumps(record, indent=1) + "\n")

    def badge(self, total: Counter[str]) -> str:
        """Return the summary in one line."""
        verdict = "does not conform" if total["failed"] else "conforms"
        counts = f"{total['passed']} passed, {total['failed']} failed, {total['refused']} refused"
        if total["skipped"]:
            counts += f", {total['skipped']} skipped"
        found = versions()
        return f"hardpoint {found['hardpoint']}, contract {found['contract']}: {self._platform} {verdict} ({counts})"


def versions() -> dict[str, str]:
    """Return the versions of Hardpoint and of its platform contract."""
    from hardpoint import __version__
    from hardpoint.contract.version import CONTRACT

    return {"hardpoint": __version__, "contract": ".".join(map(str, CONTRACT["platforms"]))}


def _outcome(report: pytest.TestReport) -> tuple[str, str]:
    if report.outcome == "skipped":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        return ("refused", reason.removeprefix(REFUSED)) if reason.startswith(REFUSED) else ("skipped", reason)
    return report.outcome, str(report.longrepr) if report.outcome == "failed" else ""
