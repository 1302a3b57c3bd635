"""Pieces of the training: packing, the schedule, Muon, and that a few steps lower the loss."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from hardpoint_demo import MODEL_PATH
from hardpoint_demo.batches import LENGTHS, encode_chat, pack, stream
from hardpoint_demo.corpus.conversation import train_chat
from hardpoint_demo.network import Network, Shape, initial_parameters
from hardpoint_demo.optimizer import Optimizer, orthogonalize, schedule
from hardpoint_demo.stepper import Stepper

TOKENIZER = Tokenizer.from_file(str(MODEL_PATH / "tokenizer.json"))


def test_packing_keeps_chats_whole_and_aligns_targets() -> None:
    rng = random.Random(0)
    chats = [encode_chat(TOKENIZER, train_chat(rng)) for _ in range(400)]
    batches = pack(chats, 6144, pad=0)
    assert batches
    rows = {tuple(ids[:-1]): labels for ids, labels in chats}
    found = 0
    for inputs, targets in batches:
        assert inputs.shape == targets.shape
        assert inputs.shape[1] in LENGTHS
        assert inputs.shape[0] == max(1, 6144 // inputs.shape[1])
        for row, target in zip(inputs.tolist(), targets.tolist(), strict=True):
            filled = len(row)
            while filled and row[filled - 1] == 0:
                filled -= 1
            if not filled:
                continue
            labels = rows[tuple(row[:filled])]
            assert target[:filled] == labels[1:]
            assert set(target[filled:]) <= {-1}
            found += 1
    assert found > 300


def test_loss_falls_only_on_what_the_assistant_writes() -> None:
    ids, labels = encode_chat(TOKENIZER, train_chat(random.Random(4)))
    written = [token for token, label in zip(ids, labels, strict=True) if label >= 0]
    end = TOKENIZER.token_to_id("<|im_end|>")
    assert 0 < len(written) < len(ids)
    assert written[-1] == end


def test_the_stream_repeats_and_depends_on_the_seed() -> None:
    def first(seed: int) -> list[np.ndarray]:
        batches = stream(TOKENIZER.to_str(), seed, 300, 6144, workers=0)
        return [next(batches)[0] for _ in range(3)]

    assert all(np.array_equal(one, two) for one, two in zip(first(1), first(1), strict=True))
    assert not np.array_equal(first(1)[0], first(2)[0])


def test_schedule_warms_up_and_ends_near_zero() -> None:
    assert schedule(0, 1000) == pytest.approx(0.01)
    assert schedule(100, 1000) == pytest.approx(1.0)
    assert schedule(999, 1000) < 1e-4


def test_orthogonalize_evens_the_singular_values() -> None:
    stack = torch.randn(3, 24, 12, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(stack))
    assert values.min() > 0.5
    assert values.max() < 1.5


def test_a_few_steps_lower_the_loss() -> None:
    torch.set_num_threads(1)
    shape = Shape(hidden=32, layers=1, heads=2, kv_heads=1, head_size=16, intermediate=48)
    start = initial_parameters(shape, torch.Generator().manual_seed(0))
    parameters = {name: value.requires_grad_() for name, value in start.items()}
    device = torch.device("cpu")
    network = Network(shape, parameters, torch.float32, fuse=False)
    step = Stepper(network, Optimizer(parameters), parameters, device)
    batch = next(stream(TOKENIZER.to_str(), 0, 60, 512, workers=0))
    losses = []
    for _ in range(12):
        step(batch, 1.0)
        losses.append(step.loss.item())
    assert losses[0] == pytest.approx(np.log(1280), rel=0.1)
    assert losses[-1] < 0.8 * losses[0]
