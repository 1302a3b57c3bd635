"""Architectures in native code, and the fallback that runs every other decoder through ``transformers``."""
