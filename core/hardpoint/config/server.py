"""How the engine is offered over the network. Flags of ``hardpoint serve`` are derived from these fields."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hardpoint.config.parts import setting
from hardpoint.contract.errors import ConfigError


def _secret(help: str) -> Any:
    made = setting((), help)
    return field(default=made.default, metadata=made.metadata, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Everything that decides how requests reach an engine. Sizes are bytes, times seconds."""

    server: str = setting("http", "Server plugin that offers the engine.")
    routes: tuple[str, ...] = setting((), "Route sets to offer; by default all that may be loaded.")
    host: str = setting("127.0.0.1", "Address to bind; 0.0.0.0 offers the server to the network.")
    port: int = setting(8000, "Port to bind; 0 takes a free one.")
    uds: str | None = setting(None, "Unix domain socket to bind instead of host and port.")
    api_key: tuple[str, ...] = _secret("Key that clients must send as a bearer token; may be given several times.")
    api_key_file: str | None = setting(None, "File with one API key a line, kept out of the process list.")
    allowed_origins: tuple[str, ...] = setting((), "Origins that browsers may call from (CORS); '*' is any.")
    root_path: str = setting("", "Path prefix that a proxy in front strips.")
    ssl_keyfile: str | None = setting(None, "Private key; with it the server speaks TLS.")
    ssl_certfile: str | None = setting(None, "Certificate that belongs to the key.")
    ssl_ca_certs: str | None = setting(None, "Authorities whose client certificates are required.")
    shutdown_timeout: float = setting(30.0, "Seconds that running requests get to finish after SIGTERM.")
    max_body_size: int = setting(32 * 2**20, "Largest request body in bytes (accepts 32M, 1Gi).")
    max_logprobs: int = setting(20, "Most log-probabilities per token that a request may ask for; -1 is no bound.")
    max_choices: int = setting(256, "Most sequences that one HTTP request may start, over its prompts and n.")
    trust_request_chat_template: bool = setting(False, "Let requests bring their own chat template.")
    profile_dir: str | None = setting(
        None, "Folder for traces; with it POST /start_profile and /stop_profile record what the engine does."
    )
    access_log: bool = setting(True, "Log a line for every HTTP request.")

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise ConfigError(f"port is {self.port}; it must be between 0 and 65535")
        if self.shutdown_timeout < 0:
            raise ConfigError(f"shutdown_timeout is {self.shutdown_timeout}; it must not be negative")
        for name in ("max_body_size", "max_choices"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if bool(self.ssl_keyfile) != bool(self.ssl_certfile):
            raise ConfigError("ssl_keyfile and ssl_certfile belong together; only one of them is set")
        if any(not key.strip() for key in self.api_key):
            raise ConfigError("api_key holds an empty key; every request would match it")

    def keys(self) -> tuple[str, ...]:
        """Return the API keys, those of ``api_key_file`` included.

        Raises:
            ConfigError: when the file cannot be read or holds no key.
        """
        if self.api_key_file is None:
            return self.api_key
        try:
            lines = Path(self.api_key_file).read_text().split()
        except OSError as error:
            raise ConfigError(f"api_key_file {self.api_key_file!r} cannot be read: {error.strerror}") from error
        if not lines:
            raise ConfigError(f"api_key_file {self.api_key_file!r} holds no key; leave the setting out to need none")
        return (*self.api_key, *lines)
