"""``POST /start_profile`` and ``/stop_profile``: a trace of the engine at work, where the operator allows it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import ClassVar

import msgspec
from fastapi import APIRouter
from starlette.responses import Response

from hardpoint.contract.errors import ProfileError
from hardpoint.contract.routes import Serving
from hardpoint_server.errors import JSON, ApiError


class ProfileRoutes:
    """Traces on request. Requests choose neither folder nor name."""

    name: ClassVar[str] = "profile"

    def router(self, serving: Serving) -> APIRouter:
        """Return both endpoints with ``--profile-dir``, none without it."""
        router = APIRouter(tags=["profile"])
        if serving.config.profile_dir is None:
            return router
        folder = Path(serving.config.profile_dir)
        numbers = itertools.count()

        @router.post("/start_profile")
        async def start_profile() -> Response:
            try:
                await serving.engine.start_profile()
            except ProfileError as error:
                raise ApiError(409, str(error), kind="server_error", code="profile_failed") from error
            return Response(msgspec.json.encode({"status": "recording"}), media_type=JSON)

        @router.post("/stop_profile")
        async def stop_profile() -> Response:
            path = folder / f"hardpoint-{serving.started}-{next(numbers)}.json"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                await serving.engine.stop_profile(str(path))
            except (ProfileError, OSError) as error:
                raise ApiError(409, str(error), kind="server_error", code="profile_failed") from error
            return Response(msgspec.json.encode({"status": "written", "path": str(path)}), media_type=JSON)

        return router
