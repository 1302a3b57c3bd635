"""What this package offers. Imports nothing that costs."""

from __future__ import annotations

from hardpoint.contract.descriptor import Descriptor

FP8 = Descriptor(
    kind="quant_methods",
    name="fp8",
    contract=(1, 0),
    implementation="hardpoint_quant.fp8:Fp8",
    summary="8-bit floats: checkpoints scaled by tensor or by block, and dense weights while they load",
)
COMPRESSED_TENSORS = Descriptor(
    kind="quant_methods",
    name="compressed-tensors",
    contract=(1, 0),
    implementation="hardpoint_quant.compressed_tensors:CompressedTensors",
    summary="checkpoints of llm-compressor: 8-bit floats scaled by tensor, by row or by block",
)
