"""The contract between the core and its plugins: protocols and frozen data, no implementation, no torch at import."""
