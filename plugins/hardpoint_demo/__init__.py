"""Hardpoint's bundled demo model: where its files lie (importing this package loads no heavy library)."""

from hardpoint_demo.paths import MODEL_PATH

__all__ = ["MODEL_PATH"]
