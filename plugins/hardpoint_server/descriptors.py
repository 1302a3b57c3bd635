"""What this package offers; the entry points name these."""

from __future__ import annotations

from hardpoint.contract.descriptor import Descriptor

HTTP = Descriptor(
    kind="servers",
    name="http",
    contract=(1, 0),
    implementation="hardpoint_server.serve:HttpServer",
    summary="HTTP server (uvicorn)",
)

OPENAI = Descriptor(
    kind="routes",
    name="openai",
    contract=(1, 0),
    implementation="hardpoint_server.openai:OpenAIRoutes",
    summary="/v1/models, /v1/completions, /v1/chat/completions",
)

HEALTH = Descriptor(
    kind="routes",
    name="health",
    contract=(1, 0),
    implementation="hardpoint_server.health:HealthRoutes",
    summary="/health",
)

METRICS = Descriptor(
    kind="routes",
    name="metrics",
    contract=(1, 0),
    implementation="hardpoint_server.metrics:MetricsRoutes",
    summary="/metrics for Prometheus",
)

PROFILE = Descriptor(
    kind="routes",
    name="profile",
    contract=(1, 0),
    implementation="hardpoint_server.profile:ProfileRoutes",
    summary="/start_profile, /stop_profile, with --profile-dir",
)
