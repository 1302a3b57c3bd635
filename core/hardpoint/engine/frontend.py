"""Opening an engine together with the text side of its model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from hardpoint.config import EngineConfig
from hardpoint.engine.client import EngineClient
from hardpoint.engine.core import make_client
from hardpoint.text.model_text import ModelText


def open_engine(config: EngineConfig, *, in_process: bool) -> tuple[EngineClient, ModelText]:
    """Start an engine and load its model's text side, at the same time where they are in different processes.

    Raises:
        ConfigError, PluginError, CheckpointError, MemoryBudgetError: what is wrong and the way out.
    """
    if in_process:
        # The tokenizer's errors come first: they take a second, and loading weights may take minutes.
        text = ModelText.load(config)
        return _or_close(config, text), text
    with ThreadPoolExecutor(1, "hardpoint-text") as pool:
        loading = pool.submit(ModelText.load, config)
        client = make_client(config, in_process=False)
        try:
            return client, loading.result()
        except BaseException:
            client.close()
            raise


def _or_close(config: EngineConfig, text: ModelText) -> EngineClient:
    try:
        return make_client(config, in_process=True)
    except BaseException:
        text.close()
        raise
