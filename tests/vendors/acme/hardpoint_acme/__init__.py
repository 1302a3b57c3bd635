"""What the package offers. Importing it costs nothing: neither torch nor the driver is loaded."""

from hardpoint.contract.descriptor import Descriptor

PLATFORM = Descriptor(
    kind="platforms",
    name="acme",
    contract=(1, 0),
    implementation="hardpoint_acme.platform:AcmePlatform",
    summary="Acme N1",
    data={"fallback": True},  # it exists on every machine, as it exists on none
)
ATTENTION = Descriptor(
    kind="attention_backends",
    name="acme",
    contract=(1, 0),
    implementation="hardpoint_acme.attention:AcmeAttention",
    summary="paged attention in blocks of 24 tokens",
)
OPS = Descriptor(
    kind="ops", name="acme", contract=(1, 0), implementation="hardpoint_acme.ops:AcmeOps", summary="fused activations"
)
LINEAR = Descriptor(
    kind="linear_kernels",
    name="acme",
    contract=(1, 0),
    implementation="hardpoint_acme.linear:AcmeLinear",
    summary="products of compiled sizes",
)
LINEAR_INT8 = Descriptor(
    kind="linear_kernels",
    name="acme_int8",
    contract=(1, 0),
    implementation="hardpoint_acme.linear:AcmeInt8Linear",
    summary="int8 products with a scale per row",
)
