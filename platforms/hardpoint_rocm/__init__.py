"""AMD GPUs through PyTorch's HIP builds."""
