"""Events; `types` are the names of those the server knows."""

from hs.core.events import event_types as types

__all__ = ["types"]
