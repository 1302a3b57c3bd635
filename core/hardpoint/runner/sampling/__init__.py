"""Sampling for a persistent batch: from logits to tokens and log-probabilities, without waiting for the device."""

from hardpoint.runner.sampling.kinds import GREEDY, SamplingKind
from hardpoint.runner.sampling.sampler import Sampled, Sampler

__all__ = ["GREEDY", "Sampled", "Sampler", "SamplingKind"]
