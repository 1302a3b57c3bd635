from throwaway import policy, site

__all__ = ["policy", "site"]
