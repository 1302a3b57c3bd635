"""NVIDIA GPUs: device, graphs, collectives."""
