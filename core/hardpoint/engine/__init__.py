"""The engine: the loop, in this process or in one of its own, and the client of either."""
