"""What the supervisor and its fork server tell each other, as JSON in one packet each.

Files travel with the packet: the first is where the child's output goes; a server process also gets
its link to the supervisor and its listening sockets.
"""

import array
import socket
from pathlib import Path
from typing import Any

import attrs
import msgspec

from hs.apis.web.inherited_sockets import Address
from hs.settings.errors import Origin, Problem

MAX_BYTES = 150_000
MAX_FILES = 250


class ProcessSource(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration of a process; `overlay` are settings that replace those of the files."""

    name: str
    files: list[str]
    overlay: dict[str, Any]
    allow_ineffective: list[str]


class PrepareRequest(msgspec.Struct, tag="prepare", frozen=True, kw_only=True):
    """Build all processes once and throw them away, before the first is forked."""

    sources: list[ProcessSource]


class ServeRequest(msgspec.Struct, tag="serve", frozen=True, kw_only=True):
    """Fork a process of the server.

    The files that come with the request are: output, link, and a socket for each of `addresses`.
    """

    source: ProcessSource
    addresses: list[Address]


class ProgramRequest(msgspec.Struct, tag="program", frozen=True, kw_only=True):
    """Run another program: `user` only if we are root. `stop_signal` asks it to stop."""

    name: str
    command: list[str]
    folder: str
    stop_signal: int
    user: str | None = None


class SignalRequest(msgspec.Struct, tag="signal", frozen=True, kw_only=True):
    """Send a signal to a child, if it still runs."""

    pid: int
    number: int


Request = PrepareRequest | ServeRequest | ProgramRequest | SignalRequest


class Started(msgspec.Struct, tag="started", frozen=True, kw_only=True):
    """A child was forked; answers come in the order of the requests."""

    pid: int


class Ended(msgspec.Struct, tag="ended", frozen=True, kw_only=True):
    """A child has ended: an exit status, or a negative number of a signal."""

    pid: int
    status: int


class Prepared(msgspec.Struct, tag="prepared", frozen=True, kw_only=True):
    """The processes were built; `problems` are those of their configuration."""

    problems: list["PackedProblem"]


class PackedProblem(msgspec.Struct, frozen=True):
    """A mistake in the configuration, with its file and line."""

    key: str
    message: str
    remedy: str
    file: str | None
    line: int | None

    @classmethod
    def of(cls, problem: Problem) -> "PackedProblem":
        """Pack a problem."""
        file = None if problem.origin.file is None else str(problem.origin.file)
        return cls(problem.key, problem.message, problem.remedy, file, problem.origin.line)

    def unpack(self) -> Problem:
        """Return the problem."""
        file = None if self.file is None else Path(self.file)
        origin = Origin(file=file, line=self.line)
        return Problem(key=self.key, message=self.message, remedy=self.remedy, origin=origin)


Report = Started | Ended | Prepared

encode = msgspec.json.Encoder().encode
decode_request = msgspec.json.Decoder(Request).decode
decode_report = msgspec.json.Decoder(Report).decode


@attrs.frozen
class Packet:
    """A packet that arrived, with the files that came with it; empty at the end."""

    payload: bytes
    files: list[int]


def rights(files: list[int]) -> list[tuple[int, int, bytes]]:
    """Return the ancillary data that passes files."""
    if not files:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files).tobytes())]


def receive_packet(sock: socket.socket) -> Packet:
    """Receive a packet; blocks."""
    space = socket.CMSG_LEN(MAX_FILES * array.array("i").itemsize)
    payload, ancillary, _, _ = sock.recvmsg(MAX_BYTES, space)
    files = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            files.frombytes(content[: len(content) - len(content) % files.itemsize])
    return Packet(payload, list(files))
