"""Sampling for a persistent batch: from logits to tokens and log-probabilities, without waiting for the device."""

from hardpoint.runner.sampling.sampler import Sampled, Sampler

__all__ = ["Sampled", "Sampler"]
