"""The CPU platform: PyTorch's own CPU kernels behind Hardpoint's contract."""
