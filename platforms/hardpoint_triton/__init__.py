"""Triton kernels that GPU platforms share."""
