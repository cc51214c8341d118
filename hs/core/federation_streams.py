"""Streams about other servers; part of the list in hs.core.streams."""

import attrs

from hs.core.stream_def import StreamDef, StreamKind, StreamWriters


@attrs.frozen
class DestinationRow:
    """A server did not respond, and is tried again at `retry_ms`; 0: it responded again."""

    server: str
    failing_since_ms: int = 0
    retry_ms: int = 0
    interval_ms: int = 0


DESTINATIONS = StreamDef("destinations", DestinationRow, StreamKind.TABLE, StreamWriters.ANY)
