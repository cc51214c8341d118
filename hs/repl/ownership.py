"""Which process owns what: the writers of each stream, and the addresses of processes.

The rooms or users of a stream with several writers belong to slots, and the table of slots says
which process holds them; see hs/repl/slots. Events have slots with one writer, too. A server of one
process has none.
"""

from collections.abc import Mapping
from typing import Any

import attrs

from hs.core.stream_def import ANY_PROCESS, StreamDef, StreamWriters
from hs.core.streams import CATALOGUE
from hs.repl.slots.table import SlotTable


@attrs.frozen
class Location:
    """The address of a process's replication listener: host and port, or a Unix socket."""

    host: str = ""
    port: int = 0
    tls: bool = False
    path: str | None = None


@attrs.frozen
class Topology:
    """The configured processes, the same in every process but for `instance`, its own name.

    `writers` names the processes that write each stream, in the same order everywhere. A stream
    that is missing is written by `main`. `locations` has an entry for every process, unless there
    is only one.
    """

    instance: str
    main: str
    writers: Mapping[str, tuple[str, ...]] = attrs.Factory(dict)
    locations: Mapping[str, Location] = attrs.Factory(dict)


@attrs.frozen(eq=False)
class Ownership:
    """The processes that write each stream; `slots` is None for a server's only process."""

    topology: Topology
    slots: SlotTable | None = None

    def writers(self, stream: StreamDef[Any]) -> tuple[str, ...]:
        """Return the names of the processes that write a stream; ANY_PROCESS for any of them.

        Raises: ValueError if the topology names several, but the stream is not sharded.
        """
        if stream.writers is StreamWriters.EVERY:
            return self.instances()
        if stream.writers is StreamWriters.ANY:
            return (ANY_PROCESS,)
        names = self.topology.writers.get(stream.name, ())
        if stream.writers is not StreamWriters.SHARDED and len(names) > 1:
            raise ValueError(f"the stream {stream.name} can have only one writer")
        return tuple(names) or (self.topology.main,)

    def owner(self, stream: StreamDef[Any], key: str = "") -> str:
        """Return the process that writes a stream; if it is sharded, the slot of this key.

        What it returns may have changed: the process that is called knows better.
        """
        if stream.writers in (StreamWriters.EVERY, StreamWriters.ANY):
            return self.topology.instance
        if self.slots is not None and self.slots.has_slots(stream):
            return self.slots.holder(stream.writer_setting or stream.name, key)
        return self.writers(stream)[0]

    def is_mine(self, stream: StreamDef[Any], key: str = "") -> bool:
        """Return whether this process owns a stream, or at this moment the slot of this key."""
        if self.slots is not None and self.slots.has_slots(stream):
            return self.slots.holds(stream.writer_setting or stream.name, key)
        return self.owner(stream, key) == self.topology.instance

    def may_finish(self, stream: StreamDef[Any], key: str) -> bool:
        """Return whether this process owns a key, or has not yet given it away."""
        if self.slots is not None and self.slots.has_slots(stream):
            return self.slots.may_finish(stream.writer_setting or stream.name, key)
        return self.owner(stream, key) == self.topology.instance

    def is_assigned(self, stream: StreamDef[Any], key: str) -> bool:
        """Return whether this process owns the slot of a key, or is about to.

        For work on rows: the last ones of the process that held the slot before arrive meanwhile.
        """
        return self.owner(stream, key) == self.topology.instance

    def writes(self, stream: StreamDef[Any]) -> bool:
        """Return whether this process writes a stream, or may write slots of it."""
        writers = self.writers(stream)
        return self.topology.instance in writers or ANY_PROCESS in writers

    def instances(self) -> tuple[str, ...]:
        """Return the names of all processes, this one included."""
        names = {self.topology.main, self.topology.instance, *self.topology.locations}
        return tuple(sorted(names))

    def expected(self) -> list[tuple[StreamDef[Any], str]]:
        """Return each stream with each of its writers in other processes."""
        if len(self.instances()) == 1:
            return []
        return [
            (stream, writer)
            for stream in CATALOGUE
            for writer in self.writers(stream)
            if writer != self.topology.instance
        ]
