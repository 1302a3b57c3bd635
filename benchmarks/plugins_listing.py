"""How long `hardpoint plugins` takes with hundreds of distributions installed, most of which have nothing to do with it.

python benchmarks/plugins_listing.py [--distributions 300]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def fill(folder: Path, count: int) -> None:
    """Leave what an installer leaves of ``count`` distributions: every tenth has a plugin, every third a console script."""
    for i in range(count):
        info = folder / f"made_up_{i}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: made-up-{i}\nVersion: 1.0\n" + "Keyword: x\n" * 40
        )
        (info / "RECORD").write_text("".join(f"made_up_{i}/m{j}.py,,\n" for j in range(60)))
        points = f"[hardpoint.schedulers]\npolicy_{i} = made_up_{i}:D\n" if i % 10 == 0 else ""
        points += f"[console_scripts]\ntool{i} = made_up_{i}:main\n" if i % 3 == 0 else ""
        if points:
            (info / "entry_points.txt").write_text(points)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--distributions", type=int, default=300)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        fill(Path(name), given.distributions)
        environment = {**os.environ, "PYTHONPATH": name}
        for what, code in (
            ("python alone", "pass"),
            ("catalogue", "from hardpoint.plugins import Catalogue; Catalogue()"),
            ("hardpoint plugins", "from hardpoint.cli import main; main(['plugins'])"),
        ):
            seconds = []
            for _ in range(7):
                begin = time.perf_counter()
                subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
                seconds.append(time.perf_counter() - begin)
            print(f"{what:<18} {statistics.median(seconds) * 1e3:6.0f} ms median of 7, {min(seconds) * 1e3:.0f} best")


if __name__ == "__main__":
    main()
