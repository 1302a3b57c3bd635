"""Entry points of the policies that come with Hardpoint."""

from hardpoint.contract.descriptor import Descriptor

FCFS = Descriptor(
    kind="schedulers",
    name="fcfs",
    contract=(1, 0),
    implementation="hardpoint.scheduler.policies:FirstComeFirstServed",
    summary="first come, first served",
)
PRIORITY = Descriptor(
    kind="schedulers",
    name="priority",
    contract=(1, 0),
    implementation="hardpoint.scheduler.policies:Priority",
    summary="smaller priority first, then first come, first served",
)
