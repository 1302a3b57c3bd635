"""Formats of quantized checkpoints: what their tensors mean. Kernels that run them are elsewhere."""
