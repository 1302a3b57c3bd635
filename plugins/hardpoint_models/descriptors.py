"""What this package offers. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from hardpoint.contract.descriptor import Descriptor
from hardpoint_models import configs

VERSION: Final = (1, 0)


def _model(
    name: str, implementation: str, config: Callable[..., dict[str, Any]], summary: str, **data: Any
) -> Descriptor:
    return Descriptor(
        kind="models",
        name=name,
        contract=VERSION,
        implementation=f"hardpoint_models.{implementation}",
        summary=summary,
        data={"config": config, **data},
    )


LLAMA = _model("LlamaForCausalLM", "llama:Llama", configs.llama, "Llama 1 to 3 and models of their shape")
MISTRAL = _model("MistralForCausalLM", "llama:Mistral", configs.mistral, "Mistral")
QWEN2 = _model("Qwen2ForCausalLM", "llama:Qwen2", configs.qwen, "Qwen 1.5 to 2.5")
QWEN3 = _model("Qwen3ForCausalLM", "llama:Qwen3", configs.qwen3, "Qwen 3")
PHI3 = _model("Phi3ForCausalLM", "llama:Phi3", configs.phi3, "Phi 3, Phi 4")
OLMO2 = _model("Olmo2ForCausalLM", "olmo2:Olmo2", configs.olmo2, "OLMo 2")
GEMMA2 = _model("Gemma2ForCausalLM", "gemma:Gemma2", configs.gemma2, "Gemma 2")
GEMMA3 = _model("Gemma3ForCausalLM", "gemma:Gemma3", configs.gemma3, "Gemma 3, text")
MIXTRAL = _model("MixtralForCausalLM", "moe:Mixtral", configs.mixtral, "Mixtral")
QWEN2_MOE = _model("Qwen2MoeForCausalLM", "moe:Qwen2Moe", configs.qwen2_moe, "Qwen 1.5 and 2 MoE")
QWEN3_MOE = _model("Qwen3MoeForCausalLM", "moe:QwenMoe", configs.qwen3_moe, "Qwen 3 MoE")
GPT_OSS = _model(
    "GptOssForCausalLM", "gpt_oss:GptOss", configs.gpt_oss, "gpt-oss; mxfp4 experts", quantization=("mxfp4",)
)
TRANSFORMERS = Descriptor(
    kind="models",
    name="transformers",
    contract=VERSION,
    implementation="hardpoint_models.fallback:TransformersModel",
    summary="any other decoder that transformers runs, with paged attention in place of its own",
    data={"config": configs.of_transformers},
)
