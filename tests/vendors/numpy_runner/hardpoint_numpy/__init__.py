"""A whole-model backend for Hardpoint that computes with numpy and nothing else."""

from hardpoint.contract.descriptor import Descriptor

PLATFORM = Descriptor(
    kind="platforms",
    name="numpy",
    contract=(1, 0),
    implementation="hardpoint_numpy.platform:NumpyPlatform",
    summary="Llama in plain numpy",
    data={"fallback": True},
)
