"""References against formulas in float64, and against transformers' own modules bit for bit."""

from __future__ import annotations

import math

import pytest
import torch

from hardpoint.ops import OPS

CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def rms64(x, weight, eps, offset=0.0):
    x = x.double()
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * (weight.double() + offset)


def layer64(x, weight, bias, eps):
    x = x.double() - x.double().mean(-1, keepdim=True)
    x = x / (x.square().mean(-1, keepdim=True) + eps).sqrt()
    return x if weight is None else x * weight.double() + bias.double()


def rotary64(x, positions, cos_sin, interleaved=False):
    """Multiply pairs as complex numbers."""
    half = cos_sin.shape[1] // 2
    turn = torch.complex(*cos_sin.double()[positions].split(half, -1)).unsqueeze(1)
    x = x.double().clone()
    first, second = (
        (slice(0, 2 * half, 2), slice(1, 2 * half, 2)) if interleaved else (slice(half), slice(half, 2 * half))
    )
    turned = torch.complex(x[..., first].clone(), x[..., second].clone()) * turn
    x[..., first], x[..., second] = turned.real, turned.imag
    return x


def qkv64(qkv, heads, kv_heads, size, q_weight, k_weight, eps, offset, positions, cos_sin, interleaved=False):
    q, k, v = (part.double() for part in qkv.view(-1, heads + 2 * kv_heads, size).split([heads, kv_heads, kv_heads], 1))
    q = q if q_weight is None else rms64(q, q_weight, eps, offset)
    k = k if k_weight is None else rms64(k, k_weight, eps, offset)
    if cos_sin is not None:
        q, k = (rotary64(x, positions, cos_sin, interleaved) for x in (q, k))
    return q, k, v


def silu64(x):
    return x / (1 + torch.exp(-x))


def gelu64(x, approximate="tanh"):
    if approximate == "none":
        return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gated64(gate_up, activate):
    gate, up = gate_up.double().split(gate_up.shape[-1] // 2, -1)
    return activate(gate) * up


def oai64(gate_up, alpha, limit):
    gate, up = gate_up.double().unflatten(-1, (-1, 2)).unbind(-1)
    gate, up = torch.minimum(gate, torch.tensor(limit).double()), torch.clip(up, -limit, limit)
    return (up + 1) * gate / (1 + torch.exp(-alpha * gate))


def embed64(ids, table, first=None):
    rows = [
        table[i - (first or 0)].double() if 0 <= i - (first or 0) < len(table) else torch.zeros(table.shape[1]).double()
        for i in ids.tolist()
    ]
    return torch.stack(rows) if rows else torch.zeros(0, table.shape[1]).double()


def router64(logits, k, renormalize, score="softmax"):
    logits = logits.double()
    ids = logits.argsort(-1, descending=True)[:, :k]
    if score == "softmax_of_chosen":
        chosen = logits.gather(-1, ids).exp()
        return chosen / chosen.sum(-1, keepdim=True), ids
    scores = 1 / (1 + (-logits).exp()) if score == "sigmoid" else logits.exp() / logits.exp().sum(-1, keepdim=True)
    weights = scores.gather(-1, ids)
    return (weights / weights.sum(-1, keepdim=True) if renormalize else weights), ids


def moe64(
    x,
    weights,
    ids,
    gate_up,
    down,
    activation="silu",
    gate_up_bias=None,
    down_bias=None,
    alpha=1.702,
    limit=7.0,
    first_expert=0,
    residual=None,
):
    """Token by token, choice by choice."""
    activate = {
        "silu": lambda y: gated64(y, silu64),
        "gelu_tanh": lambda y: gated64(y, gelu64),
        "swiglu_oai": lambda y: oai64(y, alpha, limit),
    }[activation]
    out = torch.zeros(x.shape, dtype=torch.float64) if residual is None else residual.double()
    for token, (row_weights, row_ids) in enumerate(zip(weights.double(), ids.tolist(), strict=True)):
        for weight, expert in zip(row_weights, row_ids, strict=True):
            at = expert - first_expert
            if 0 <= at < len(gate_up):
                inner = gate_up[at].double() @ x[token].double()
                inner = activate(inner if gate_up_bias is None else inner + gate_up_bias[at].double())
                result = down[at].double() @ inner
                out[token] += weight * (result if down_bias is None else result + down_bias[at].double())
    return out


def routed64(
    x,
    router,
    gate_up,
    down,
    k,
    renormalize,
    score="softmax",
    activation="silu",
    *,
    norm_weight=None,
    eps=1e-6,
    offset=0.0,
    router_bias=None,
    round_weights=False,
    **rest,
):
    normed = x.double() if norm_weight is None else rms64(x, norm_weight, eps, offset)
    logits = normed @ router.double().T
    weights, ids = router64(logits if router_bias is None else logits + router_bias.double(), k, renormalize, score)
    return moe64(normed, weights.to(x.dtype) if round_weights else weights, ids, gate_up, down, activation, **rest)


def best64(logits):
    """numpy's argmax takes the first NaN, or else the first of equals."""
    tokens = torch.from_numpy(logits.double().numpy().argmax(-1))
    return tokens, logits.double().gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


FORMULAS = {
    "best_token": best64,
    "rms_norm": rms64,
    "layer_norm": layer64,
    "rotary": lambda q, k, *rest: (rotary64(q, *rest), rotary64(k, *rest)),
    "qk_norm_rope": qkv64,
    "silu_mul": lambda x: gated64(x, silu64),
    "gelu_mul": lambda x, approximate="tanh": gated64(x, lambda y: gelu64(y, approximate)),
    "swiglu_oai": oai64,
    "soft_cap": lambda x, cap: cap * torch.tanh(x.double() / cap),
    "embed": embed64,
    "topk_router": router64,
    "moe": moe64,
    "routed_moe": routed64,
}
#: 16-bit references round after every step as transformers does; these need more room than one rounding.
STEPS = {
    "moe": 4,
    "routed_moe": 8,
    "rms_norm": 2,
    "qk_norm_rope": 4,
    "rotary": 2,
    "swiglu_oai": 4,
    "gelu_mul": 2,
    "silu_mul": 2,
}


def assert_near(actual, expected, *, steps, dtype=None, where="") -> None:
    """Differ by at most so many roundings of the largest value (and never ask for more than 1e-6)."""
    scale = max(expected.abs().max().item(), 1.0) if expected.numel() else 1.0
    atol = max(steps * torch.finfo(dtype or actual.dtype).eps, 1e-6) * scale
    torch.testing.assert_close(actual.double(), expected.double(), atol=atol, rtol=0, msg=lambda t: f"{where}: {t}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FORMULAS)
def test_reference_follows_its_formula(name, dtype) -> None:
    made = OPS[name]
    for call in made.inputs(dtype, CPU, 7):
        actual = made(*call.args, **call.kwargs)
        expected = FORMULAS[name](*call.args, **call.kwargs)
        pairs = zip(actual, expected, strict=True) if isinstance(actual, tuple) else [(actual, expected)]
        for a, e in pairs:
            assert_near(a, e, steps=STEPS.get(name, 1), dtype=dtype, where=call.label)


DRAWS = ("sample_full", "sample_top_k")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", DRAWS)
def test_draws_from_narrow_logits_are_draws_from_the_same_numbers(name, dtype) -> None:
    """What is drawn from float32 logits is checked where sampling is."""
    for call in OPS[name].inputs(dtype, CPU, 7):
        logits, *rest = call.args
        assert torch.equal(OPS[name](logits, *rest), OPS[name](logits.float(), *rest)), call.label


def test_every_op_is_checked_here_or_is_a_sampling_op() -> None:
    rest = {name for name, made in OPS.items() if made.dtypes != (torch.float32,)}
    assert rest == {*FORMULAS, *DRAWS}


def test_moe_gives_a_token_the_same_sum_in_any_company() -> None:
    made = OPS["moe"]
    call = next(c for c in made.inputs(torch.float32, CPU, 0) if c.label == "40x1-silu")
    x, weights, ids, *rest = call.args
    together = made(x, weights, ids, *rest)
    order = torch.arange(39, -1, -1)
    torch.testing.assert_close(made(x[order], weights[order], ids[order], *rest)[order], together, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
class TestTransformers:
    """The same bits as transformers' modules, 16-bit rounding included."""

    def test_llama_norm(self, dtype) -> None:
        from transformers.models.llama.modeling_llama import LlamaRMSNorm

        module = LlamaRMSNorm(256, 1e-5).to(dtype)
        module.weight.data.normal_(1, 0.1)
        x = torch.randn(5, 256).to(dtype)
        assert torch.equal(OPS["rms_norm"](x, module.weight, 1e-5), module(x))

    def test_gemma_norm(self, dtype) -> None:
        from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm

        module = Gemma3RMSNorm(256, 1e-6).to(dtype)
        module.weight.data.normal_(0, 0.1)
        x = torch.randn(5, 256).to(dtype)
        assert torch.equal(OPS["rms_norm"](x, module.weight, 1e-6, 1.0), module(x))

    def test_gpt_oss_norm_takes_a_float32_weight(self, dtype) -> None:
        from transformers.models.gpt_oss.modeling_gpt_oss import GptOssRMSNorm

        module = GptOssRMSNorm(256, 1e-5)
        module.weight.data.normal_(1, 0.1)
        x = torch.randn(5, 256).to(dtype)
        assert torch.equal(OPS["rms_norm"](x, module.weight, 1e-5), module(x))

    def test_olmo2_norm_takes_its_weight_as_float32(self, dtype) -> None:
        from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm

        module = Olmo2RMSNorm(256, 1e-5).to(dtype)
        module.weight.data.normal_(1, 0.1)
        x = torch.randn(5, 256).to(dtype)
        assert torch.equal(OPS["rms_norm"](x, module.weight.float(), 1e-5), module(x))

    def test_rotation(self, dtype) -> None:
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

        q, k = torch.randn(6, 4, 64).to(dtype), torch.randn(6, 2, 64).to(dtype)
        angle = torch.rand(6, 32) * 6
        cos, sin = torch.cat((angle, angle), -1).cos().to(dtype), torch.cat((angle, angle), -1).sin().to(dtype)
        expected = apply_rotary_pos_emb(q.transpose(0, 1)[None], k.transpose(0, 1)[None], cos[None], sin[None])
        table = torch.cat((angle.cos(), angle.sin()), -1)
        actual = OPS["rotary"](q, k, torch.arange(6), table)
        for a, e in zip(actual, expected, strict=True):
            assert torch.equal(a, e[0].transpose(0, 1))

    def test_partial_rotation(self, dtype) -> None:
        from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb

        q, k = torch.randn(6, 4, 64).to(dtype), torch.randn(6, 2, 64).to(dtype)
        angle = torch.rand(6, 24) * 6
        cos, sin = torch.cat((angle, angle), -1).cos().to(dtype), torch.cat((angle, angle), -1).sin().to(dtype)
        expected = apply_rotary_pos_emb(q.transpose(0, 1)[None], k.transpose(0, 1)[None], cos[None], sin[None])
        actual = OPS["rotary"](q, k, torch.arange(6), torch.cat((angle.cos(), angle.sin()), -1))
        for a, e in zip(actual, expected, strict=True):
            assert torch.equal(a, e[0].transpose(0, 1))

    @pytest.mark.parametrize("activation", ["silu", "gelu_pytorch_tanh", "gelu"])
    def test_gated_activations(self, dtype, activation) -> None:
        from transformers.activations import ACT2FN

        gate, up = torch.randn(3, 64).to(dtype) * 3, torch.randn(3, 64).to(dtype)
        fused = torch.cat((gate, up), -1)
        expected = ACT2FN[activation](gate) * up
        if activation == "silu":
            assert torch.equal(OPS["silu_mul"](fused), expected)
        else:
            approximate = "tanh" if activation == "gelu_pytorch_tanh" else "none"
            # The exact form runs through another vector path where its input has gaps.
            assert_near(OPS["gelu_mul"](fused, approximate), expected, steps=4)

    def test_qwen_router_and_experts(self, dtype) -> None:
        from transformers import Qwen3MoeConfig
        from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts, Qwen3MoeTopKRouter

        config = Qwen3MoeConfig(
            hidden_size=32, moe_intermediate_size=48, num_experts=8, num_experts_per_tok=3, norm_topk_prob=True
        )
        config._experts_implementation = "eager"
        router, experts = Qwen3MoeTopKRouter(config).to(dtype), Qwen3MoeExperts(config).to(dtype)
        for parameter in (*router.parameters(), *experts.parameters()):
            parameter.data.normal_(0, 0.2)
        x = torch.randn(11, 32).to(dtype)
        with torch.no_grad():
            logits, scores, ids = router(x)
            expected = experts(x, ids, scores)
            weights, chosen = OPS["topk_router"](logits, 3, True)
            actual = OPS["moe"](x, weights.to(dtype), chosen, experts.gate_up_proj, experts.down_proj, "silu")
        assert torch.equal(chosen, ids)
        assert torch.equal(weights.to(dtype), scores)
        assert_near(actual, expected, steps=4)

    def test_gpt_oss_router_and_experts(self, dtype) -> None:
        from transformers import GptOssConfig
        from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts, GptOssTopKRouter

        config = GptOssConfig(hidden_size=32, intermediate_size=48, num_local_experts=8, num_experts_per_tok=3)
        config._experts_implementation = "eager"
        router, experts = GptOssTopKRouter(config).to(dtype), GptOssExperts(config).to(dtype)
        for parameter in (*router.parameters(), *experts.parameters()):
            parameter.data.normal_(0, 0.5)
        x = torch.randn(11, 32).to(dtype) * 4
        with torch.no_grad():
            logits, scores, ids = router(x)
            expected = experts(x, ids, scores)
            weights, chosen = OPS["topk_router"](logits, 3, False, "softmax_of_chosen")
            actual = OPS["moe"](
                x,
                weights.to(dtype),
                chosen,
                experts.gate_up_proj.transpose(1, 2).contiguous(),
                experts.down_proj.transpose(1, 2).contiguous(),
                "swiglu_oai",
                experts.gate_up_proj_bias,
                experts.down_proj_bias,
                experts.alpha,
                experts.limit,
            )
        assert torch.equal(chosen, ids)
        assert torch.equal(weights.to(dtype), scores)
        assert_near(actual, expected, steps=8)
