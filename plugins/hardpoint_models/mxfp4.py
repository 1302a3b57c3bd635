"""MXFP4 (OCP Microscaling Formats 1.0): blocks of 32 four-bit floats (E2M1) that share a power of two (E8M0)."""

from __future__ import annotations

from typing import Final

import torch

#: Values that share a scale.
BLOCK: Final = 32
_BIAS: Final = 127
#: E2M1 by code: sign, two bits of exponent, one of mantissa.
_VALUES: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


def dequantize(blocks: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Decode values.

    Args:
        blocks: uint8 [rows, groups, 16]; the low half of a byte is the earlier value.
        scales: uint8 [rows, groups], exponents with a bias of 127; 255 is not a number.
        dtype: of the result.

    Returns:
        [rows, groups * 32].
    """
    table = torch.tensor(_VALUES, dtype=torch.float32, device=blocks.device)
    codes = torch.stack((blocks & 0x0F, blocks >> 4), -1).flatten(-2).int()
    exponents = scales.int() - _BIAS
    values = torch.ldexp(table[codes], exponents.unsqueeze(-1))
    values = values.masked_fill((scales == 255).unsqueeze(-1), torch.nan)
    return values.flatten(1).to(dtype)
