"""Events: the event format, hashes, redaction and the event types (`types`)."""

from hs.core.events import event_types as types

__all__ = ["types"]
