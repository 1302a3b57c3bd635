"""Entry points of the executors that come with the core."""

from hardpoint.contract.descriptor import Descriptor

IN_PROCESS = Descriptor(
    kind="executors",
    name="in_process",
    contract=(1, 0),
    implementation="hardpoint.executor.in_process:InProcessExecutor",
    summary="one rank in the engine's own process",
)
MULTI_PROCESS = Descriptor(
    kind="executors",
    name="multi_process",
    contract=(1, 0),
    implementation="hardpoint.executor.multi_process:MultiProcessExecutor",
    summary="one worker process per rank",
)
