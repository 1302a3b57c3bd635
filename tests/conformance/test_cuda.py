"""The CUDA platform's attention, ops and engine. Needs a GPU: ``pytest -m gpu tests/conformance``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from hardpoint import LLM, SamplingParams
from hardpoint.config import EngineConfig
from hardpoint.contract.device import Device
from hardpoint.ops.registry import OPS
from hardpoint.testing.conformance.attention import AttentionCase, attention_cases, check_attention
from hardpoint.testing.conformance.ops import check_body
from hardpoint.testing.tiny_models import make_tiny
from hardpoint_cuda.platform import CudaPlatform

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def device() -> Iterator[Device]:
    """Return the first GPU."""
    platform = CudaPlatform()
    if (reason := platform.probe()) is not None:
        pytest.skip(reason)
    opened = platform.open(0, EngineConfig.of())
    yield opened
    opened.close()


@pytest.mark.parametrize("case", list(attention_cases()), ids=lambda case: case.label)
@pytest.mark.parametrize("name", ["triton", "cudnn"])
def test_attention_agrees_with_dense_attention(case: AttentionCase, name: str, device: Device) -> None:
    from hardpoint_cuda.attention import CudnnAttention
    from hardpoint_triton.attention import TritonAttention

    backend = TritonAttention() if name == "triton" else CudnnAttention()
    if reasons := backend.reject(case.query(device.info.arch)):
        pytest.skip("; ".join(reasons))
    check_attention(backend, device, case)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "name", ["rms_norm", "silu_mul", "gelu_mul", "qk_norm_rope", "topk_router", "moe", "routed_moe"]
)
def test_triton_ops_agree_with_their_references(name: str, dtype: torch.dtype, device: Device) -> None:
    from hardpoint_triton.ops import OPS as BODIES

    check_body(OPS[name], BODIES[name], dtype, device.torch_device)


@pytest.mark.parametrize("enforce_eager", [False, True], ids=["graphs", "eager"])
@pytest.mark.parametrize(
    "architecture", ["LlamaForCausalLM", "Gemma3ForCausalLM", "Qwen3MoeForCausalLM", "GptOssForCausalLM"]
)
def test_greedy_tokens_equal_those_of_the_cpu(
    architecture: str, enforce_eager: bool, device: Device, tmp_path: Path
) -> None:
    """Nine requests of different lengths in float32, with two steps in flight."""
    make_tiny(architecture, tmp_path, seed=3)
    rng = np.random.default_rng(0)
    prompts = [{"prompt_token_ids": rng.integers(3, 200, size=int(n)).tolist()} for n in rng.integers(2, 70, size=9)]
    params = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True, detokenize=False)
    tokens = {}
    for platform in ("cpu", "cuda"):
        with LLM(
            str(tmp_path),
            dtype="float32",
            skip_tokenizer_init=True,
            max_model_len=128,
            kv_cache_memory="200M",
            platform=platform,
            enforce_eager=enforce_eager,
        ) as llm:
            done = llm.generate(prompts, params, use_tqdm=False)
            tokens[platform] = [list(output.outputs[0].token_ids) for output in done]
    assert tokens["cuda"] == tokens["cpu"]
