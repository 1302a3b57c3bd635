"""What an op is: a reference body, inputs to try it on, and how far another body may be from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Largest difference allowed: ``|other - reference| <= atol + rtol * |reference|``."""

    atol: float
    rtol: float


@dataclass(frozen=True, slots=True)
class OpCall:
    """One way to call an op. ``label`` names the case in test reports."""

    label: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def clone(self) -> OpCall:
        """Return the call with tensors of its own, for ops that work in place; strides are kept."""
        return OpCall(
            self.label,
            tuple(_clone(value) for value in self.args),
            {name: _clone(value) for name, value in self.kwargs.items()},
        )


#: Makes the calls to try for an element type on a device from a seed.
InputGenerator = Callable[[torch.dtype, torch.device, int], Iterable[OpCall]]

DEFAULT_TOLERANCE: Final[Mapping[torch.dtype, Tolerance]] = {
    torch.float32: Tolerance(1e-5, 1e-5),
    torch.bfloat16: Tolerance(1.6e-2, 1.6e-2),
    torch.float16: Tolerance(2e-3, 2e-3),
}


class Op(Generic[P, R]):
    """An operation with a reference. Calling it runs the reference.

    Attributes:
        name: under which providers offer it and users choose a provider for it.
        reference: the meaning, in plain torch; runs everywhere.
        in_place: whether the first argument is overwritten (and returned).
        dtypes: element types to test with; a sampling op knows float32 only.
        host_reads: whether the reference waits for values on the device, so that no prepared step can hold it.
    """

    def __init__(
        self,
        reference: Callable[P, R],
        inputs: InputGenerator,
        tolerance: Mapping[torch.dtype, Tolerance],
        dtypes: tuple[torch.dtype, ...],
        in_place: bool,
        host_reads: bool,
    ) -> None:
        self.name = reference.__name__
        self.reference = reference
        self.in_place = in_place
        self.host_reads = host_reads
        self.dtypes = dtypes
        self._inputs = inputs
        self._tolerance = {**DEFAULT_TOLERANCE, **tolerance}
        self.__doc__ = reference.__doc__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.reference(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Op({self.name})"

    def inputs(self, dtype: torch.dtype, device: torch.device, seed: int) -> Iterator[OpCall]:
        """Yield calls to try; the same seed gives the same values on every device."""
        yield from self._inputs(dtype, device, seed)

    def tolerance(self, dtype: torch.dtype) -> Tolerance:
        """Return how far a provider may be from the reference for activations of ``dtype``."""
        return self._tolerance[dtype]


#: Every op by name. Filled by :func:`op` when the modules of this package are imported.
OPS: Final[dict[str, Op[Any, Any]]] = {}


def op(
    inputs: InputGenerator,
    *,
    tolerance: Mapping[torch.dtype, Tolerance] | None = None,
    dtypes: tuple[torch.dtype, ...] = tuple(DEFAULT_TOLERANCE),
    in_place: bool = False,
    host_reads: bool = False,
) -> Callable[[Callable[P, R]], Op[P, R]]:
    """Make the decorated function the reference of an op of its name.

    Raises:
        ValueError: when there is an op of that name already.
    """

    def register(reference: Callable[P, R]) -> Op[P, R]:
        made = Op(reference, inputs, tolerance or {}, dtypes, in_place, host_reads)
        if made.name in OPS:
            raise ValueError(f"there are two ops named {made.name!r}: {OPS[made.name].reference} and {reference}")
        OPS[made.name] = made
        return made

    return register


def _clone(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    # as_strided keeps gaps between rows: providers must cope with views of wider tensors.
    copy = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)
    return copy.copy_(value)
