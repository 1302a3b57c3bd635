"""The generated corpus: one module a kind, each with `train_example`, `held_out_example` and `grade`."""

from __future__ import annotations

from types import ModuleType

from hardpoint_demo.corpus import (
    arithmetic,
    capitals,
    conversation,
    extraction,
    greetings,
    stories,
    tools,
    units,
    unknown,
)

# In the order that reports list them; `conversation` is the multi-turn kind and has no single training exchange.
KINDS: dict[str, ModuleType] = {
    module.KIND: module
    for module in (greetings, capitals, arithmetic, units, extraction, tools, stories, unknown, conversation)
}
