"""A dense linear kernel that beats ``F.linear`` on a processor.

Measured on a 2-core Zen 4 with AVX-512 and bfloat16 products, weights not in cache (GB/s of weight at 1 and 4 rows, 1024 x
3072): float32 ``F.linear`` 16 and 5, here 19 and 19; bfloat16 ``F.linear`` 10 and 9, here 18 and 20. At 512 rows the
difference is small.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

import torch
import torch.nn.functional as F

from hardpoint.contract.device import DeviceInfo
from hardpoint.contract.quant import LinearScheme

#: oneDNN's products of one to three rows take another path, which is slower than its product of four.
LEAST_ROWS: Final = 4
#: Rows for which the packed format is chosen: that for decoding a small batch is also good for prefill.
PACKED_FOR: Final = 16


class OneDnnLinear:
    """oneDNN over a weight in its blocked format, which replaces the plain one.

    A tied embedding needs the plain weight too; its head then takes the table's memory a second time.
    """

    name: ClassVar[str] = "onednn"

    def reject(
        self, scheme: LinearScheme, out_features: int, in_features: int, dtype: str, info: DeviceInfo
    ) -> list[str]:
        reasons = [] if scheme.weight == "dense" else [f"reads dense weights only, not {scheme.weight}"]
        if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            reasons.append("this PyTorch was built without oneDNN")
        elif dtype == "float16" and not torch.ops.mkldnn._is_mkldnn_fp16_supported():
            reasons.append(f"{info.arch} has no float16 products")
        elif dtype not in ("float32", "bfloat16", "float16"):
            reasons.append(f"dtype is {dtype}; it must be float32, bfloat16 or float16")
        return reasons

    def pack(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        weight = tensors["weight"]
        return {"weight": torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACKED_FOR)}

    def apply(self, x: torch.Tensor, packed: Mapping[str, torch.Tensor], bias: torch.Tensor | None) -> torch.Tensor:
        rows = len(x)
        if rows < LEAST_ROWS:
            x = F.pad(x, (0, 0, 0, LEAST_ROWS - rows))
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), packed["weight"], bias, "none", [], "")
        return y[:rows]
