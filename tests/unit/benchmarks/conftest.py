"""The benchmark scripts as modules."""

from __future__ import annotations

import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[3] / "benchmarks" / "gpu"
sys.path.insert(0, str(SCRIPTS))
