"""Libraries that are needed for some features only, and may be missing."""

import importlib.util


def is_installed(library: str) -> bool:
    """Return whether a top-level package can be imported, without importing it."""
    return importlib.util.find_spec(library) is not None
