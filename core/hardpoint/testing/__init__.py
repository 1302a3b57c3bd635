"""Test support that plugins can use too: tiny models, a device without hardware."""
