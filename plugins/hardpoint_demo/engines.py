"""Ways to answer prompts greedily: transformers, or Hardpoint itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from hardpoint_demo.corpus.base import Message, Tool

# Chats (message lists) and one tool list or None per chat, to one text per chat.
Generate = Callable[[Sequence[list[Message]], Sequence[list[Tool] | None]], list[str]]

MAX_NEW_TOKENS = 200


def transformers_engine(model_path: Path, device: str = "auto", batch_size: int = 64) -> Generate:
    """Greedy decoding with `AutoModelForCausalLM`: bfloat16 on a GPU, float32 arithmetic on a CPU."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    dtype = torch.float32 if where == "cpu" else torch.bfloat16
    tokenizer = AutoTokenizer.from_pretrained(model_path, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=dtype).to(where).eval()

    @torch.inference_mode()
    def generate(chats: Sequence[list[Message]], tools: Sequence[list[Tool] | None]) -> list[str]:
        prompts = [
            tokenizer.apply_chat_template(chat, tools=tool, tokenize=False, add_generation_prompt=True)
            for chat, tool in zip(chats, tools, strict=True)
        ]
        texts = [""] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        for start in range(0, len(order), batch_size):
            picked = order[start : start + batch_size]
            batch = tokenizer([prompts[index] for index in picked], return_tensors="pt", padding=True)
            inputs = {name: batch[name].to(where) for name in ("input_ids", "attention_mask")}
            output = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
            answers = output[:, inputs["input_ids"].shape[1] :]
            for index, text in zip(picked, tokenizer.batch_decode(answers, skip_special_tokens=True), strict=True):
                texts[index] = text
        return texts

    return generate


def hardpoint_engine(model_path: Path) -> Generate:
    """Greedy decoding with Hardpoint's own `LLM.chat`, one call per distinct tool list."""
    from hardpoint import LLM, SamplingParams

    llm = LLM(model=str(model_path))
    params = SamplingParams(temperature=0, max_tokens=MAX_NEW_TOKENS)

    def generate(chats: Sequence[list[Message]], tools: Sequence[list[Tool] | None]) -> list[str]:
        texts = [""] * len(chats)
        groups: dict[str, list[int]] = {}
        for index, tool in enumerate(tools):
            groups.setdefault(repr(tool), []).append(index)
        for members in groups.values():
            picked = [list(chats[index]) for index in members]
            outputs = llm.chat(picked, params, tools=tools[members[0]], use_tqdm=False)
            for index, output in zip(members, outputs, strict=True):
                texts[index] = output.outputs[0].text
        return texts

    return generate
