"""The HTTP server: OpenAI's surface, health and metrics, offered over an :class:`AsyncEngine`."""
