from __future__ import annotations

from collections.abc import Callable

import pytest
from app_client import Client
from fake_engine import FakeEngine

from hardpoint.config.server import ServerConfig
from hardpoint.plugins import Catalogue
from hardpoint_server.app import create_app


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def serve(engine: FakeEngine) -> Callable[..., Client]:
    """Return a function that makes a client of a server with the given settings."""
    return lambda **settings: Client(create_app(engine, ServerConfig(**settings), Catalogue()))


@pytest.fixture
def client(serve: Callable[..., Client]) -> Client:
    return serve()
