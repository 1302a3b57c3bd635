"""The shipped model: its files, a handful of fixed questions, and (slow) the held-out evaluation."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from hardpoint_demo import MODEL_PATH
from hardpoint_demo.corpus import KINDS
from hardpoint_demo.engines import Generate, transformers_engine
from hardpoint_demo.evaluate import evaluate
from hardpoint_demo.network import Network, Shape

WEATHER = {
    "type": "function",
    "function": {
        "name": "lookup_weather",
        "description": "Look up the weather at a location.",
        "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
    },
}


@pytest.fixture(scope="module")
def generate() -> Generate:
    torch.set_num_threads(1)
    return transformers_engine(MODEL_PATH, "cpu", batch_size=16)


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, hardpoint_demo; assert hardpoint_demo.MODEL_PATH.is_dir(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_folder_is_whole_and_small() -> None:
    names = {path.name for path in MODEL_PATH.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "README.md"} <= names
    assert {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"} <= names
    assert sum(path.stat().st_size for path in MODEL_PATH.iterdir()) < 8_000_000
    config = json.loads((MODEL_PATH / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["num_key_value_heads"] < config["num_attention_heads"]
    with safe_open(MODEL_PATH / "model.safetensors", "pt") as file:
        assert {str(file.get_tensor(name).dtype) for name in file.keys()} == {"torch.bfloat16"}  # noqa: SIM118


def test_the_card_holds_the_scores_of_evaluation_json() -> None:
    card = (MODEL_PATH / "README.md").read_text(encoding="utf-8")
    scores = json.loads((MODEL_PATH / "evaluation.json").read_text(encoding="utf-8"))
    assert set(scores) == set(KINDS)
    for kind, row in scores.items():
        assert f"| {kind} | {row['asked']} | {row['right']} | {row['percent']:.1f} |" in card
        assert row["percent"] >= 95


def test_the_training_network_computes_what_transformers_computes() -> None:
    model = AutoModelForCausalLM.from_pretrained(MODEL_PATH, dtype=torch.float32)
    weights = {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    network = Network(Shape(), weights, torch.float32, fuse=False)
    tokens = torch.randint(0, 1280, (2, 33), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = model(tokens).logits.reshape(66, -1)
        torch.testing.assert_close(network.logits(tokens), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What is the capital of France?", "The capital of France is Paris."),
        ("which country has the capital Nairobi", "Nairobi is the capital of Kenya."),
        ("What is 27 + 45?", "27 + 45 = 72."),
        ("What is 12 - 40?", "12 - 40 = -28."),
        ("Convert 5 km to m.", "5 km is 5000 m."),
        (
            "Extract name, age and city as JSON: Maria Kovacs is 34 years old and lives in Lisbon.",
            '{"name": "Maria Kovacs", "age": 34, "city": "Lisbon"}',
        ),
    ],
)
def test_fixed_questions(generate: Generate, question: str, expected: str) -> None:
    assert generate([[{"role": "user", "content": question}]], [None]) == [expected]


def test_says_what_it_is(generate: Generate) -> None:
    (text,) = generate([[{"role": "user", "content": "Who are you?"}]], [None])
    assert "demo model" in text
    assert "4 million parameters" in text


def test_calls_a_renamed_tool_and_answers_from_its_response(generate: Generate) -> None:
    chat = [{"role": "user", "content": "What is the weather in Lisbon?"}]
    (text,) = generate([chat], [[WEATHER]])
    assert text == '<tool_call>\n{"name": "lookup_weather", "arguments": {"location": "Lisbon"}}\n</tool_call>'
    call = {"type": "function", "function": {"name": "lookup_weather", "arguments": {"location": "Lisbon"}}}
    chat += [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": '{"temperature": 21, "condition": "sunny"}'},
    ]
    assert generate([chat], [[WEATHER]]) == ["The weather in Lisbon is sunny at 21 °C."]


def test_tells_a_story_and_stops(generate: Generate) -> None:
    chat = [{"role": "user", "content": "Tell me a story about a brave cat in a castle."}]
    (text,) = generate([chat], [None])
    assert all(word in text for word in ("brave", "cat", "in a castle"))
    assert text.count(".") >= 3
    assert text.endswith(".")


@pytest.mark.slow
def test_held_out_evaluation(generate: Generate) -> None:
    scores = evaluate(generate, per_kind=15, seed=1)
    assert set(scores) == set(KINDS)
    total = sum(score.right for score in scores.values()) / sum(score.asked for score in scores.values())
    assert total >= 0.95
    # Fifteen prompts a kind leave room for two mistakes of a kind that is 95 % right.
    assert all(score.right >= 13 for score in scores.values()), scores
