"""Traces through the server: only where the operator gave a folder, and only into it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from app_client import Client


def test_without_a_folder_there_are_no_such_endpoints(client: Client) -> None:
    for path in ("/start_profile", "/stop_profile"):
        assert client.post(path, {}).status_code == 404


def test_a_profile_is_started_stopped_and_written_into_the_folder(serve: Callable[..., Client], tmp_path: Path) -> None:
    client = serve(profile_dir=str(tmp_path / "traces"))
    refused = client.post("/stop_profile", {})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "profile_failed")
    assert "no profile was started" in refused.json()["error"]["message"]
    assert client.post("/start_profile", {}).json() == {"status": "recording"}
    assert client.post("/start_profile", {}).status_code == 409
    written = [client.post("/stop_profile", {"path": "/etc/passwd"}).json()["path"]]
    client.post("/start_profile", {})
    written.append(client.post("/stop_profile", {}).json()["path"])
    assert len(set(written)) == 2
    for path in map(Path, written):
        assert path.parent == tmp_path / "traces"
        assert json.loads(path.read_text()) == {"traceEvents": []}


@pytest.mark.parametrize("path", ["/start_profile", "/stop_profile"])
def test_a_key_is_asked_for(serve: Callable[..., Client], tmp_path: Path, path: str) -> None:
    client = serve(profile_dir=str(tmp_path), api_key=("secret",))
    assert client.post(path, {}).status_code == 401
