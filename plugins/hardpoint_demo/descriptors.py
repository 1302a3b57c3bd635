"""What this package offers. Imports nothing that costs."""

from __future__ import annotations

from hardpoint.contract.descriptor import Descriptor

DEMO = Descriptor(
    kind="checkpoints",
    name="hardpoint/demo",
    contract=(1, 0),
    implementation="hardpoint_demo.paths:model_folder",
    summary="the bundled model: 4 million parameters, trained on generated text",
)
