"""Which instance owns what: the writers of each stream, and where instances are reached."""

import zlib
from collections.abc import Mapping
from typing import Any

import attrs

from hs.repl.streams import CATALOGUE, StreamDef, Writers


@attrs.frozen
class Location:
    """Where the replication listener of an instance is: host and port, or a Unix socket."""

    host: str = ""
    port: int = 0
    tls: bool = False
    path: str | None = None


@attrs.frozen
class Topology:
    """The instances as configured, the same in every process.

    `writers` names the instances that write each stream, in the same order everywhere; streams it
    leaves out are written by `main`. Every instance is in `locations`, but in the monolith.
    """

    instance: str
    main: str
    writers: Mapping[str, tuple[str, ...]] = attrs.Factory(dict)
    locations: Mapping[str, Location] = attrs.Factory(dict)


def shard_of(key: str, shards: int) -> int:
    """Give the number of the shard a key belongs to; the same in every process and release."""
    return zlib.crc32(key.encode()) % shards


@attrs.frozen(eq=False)
class Ownership:
    """Answers who writes a stream."""

    topology: Topology

    def writers(self, stream: StreamDef[Any]) -> tuple[str, ...]:
        """List the instances that write a stream."""
        if stream.writers is Writers.EVERY:
            return self.instances()
        named = self.topology.writers.get(stream.name, ())
        if stream.writers is Writers.ONE and len(named) > 1:
            raise ValueError(f"the stream {stream.name} can have only one writer")
        return tuple(named) or (self.topology.main,)

    def owner(self, stream: StreamDef[Any], key: str = "") -> str:
        """Give the instance that writes a stream, for this key (a room ID) when sharded."""
        if stream.writers is Writers.EVERY:
            return self.topology.instance
        writers = self.writers(stream)
        return writers[0] if len(writers) == 1 else writers[shard_of(key, len(writers))]

    def is_mine(self, stream: StreamDef[Any], key: str = "") -> bool:
        """Tell whether this process owns it."""
        return self.owner(stream, key) == self.topology.instance

    def writes(self, stream: StreamDef[Any]) -> bool:
        """Tell whether this process writes the stream, whole or in part."""
        return self.topology.instance in self.writers(stream)

    def instances(self) -> tuple[str, ...]:
        """List all instances, this one included."""
        names = {self.topology.main, self.topology.instance, *self.topology.locations}
        return tuple(sorted(names))

    def expected(self) -> list[tuple[StreamDef[Any], str]]:
        """List every stream with each of its writers in other processes."""
        return [
            (stream, writer)
            for stream in CATALOGUE
            for writer in self.writers(stream)
            if writer != self.topology.instance
        ]
