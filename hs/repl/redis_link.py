"""The connections of a process to Redis: one that is subscribed, and one that publishes.

Rules:

- A connection that fails is closed and never opened again silently: that would hide that messages
  were lost in between.
- What is published is sent without waiting for the reply, which would wake this process once more.
  Replies are read before the next publication, which fails in the place of the one before it.
- What arrives at once is passed on at once.
- There is a channel for each audience. Redis passes on what was published on one connection in
  order, whatever the channels.
"""

import enum
import os
import ssl
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import hiredis
import trio

from hs.lib.default_tls import default_tls, start_tls

CONNECT_S = 2.0  # to open a connection and log in
CHUNK = 64 * 1024  # bytes that are passed on at a time

_Command = tuple[str | bytes | int, ...]
_pack: Callable[[_Command], bytes] = hiredis.pack_command  # type: ignore[assignment]  # its types allow one part only

_BROKEN = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, hiredis.ProtocolError)


@attrs.frozen
class RedisAddress:
    """The address of Redis: host and port, or a Unix socket, and how to log in."""

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    database: int = 0
    username: str | None = None
    password: str | None = attrs.field(default=None, repr=False)
    tls: bool = False
    ca_file: str | None = None
    ca_path: str | None = None
    certificate_file: str | None = None
    private_key_file: str | None = None

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


class Audience(enum.Enum):
    """The processes that a message is for; the value is the end of the name of its channel."""

    ALL = ""
    PLAIN = "/plain"  # those that take plain rows, see hs.repl.feed
    POSITIONS = "/positions"  # those that do without


class RedisDown(Exception):
    """Redis cannot be reached, rejects a command, or the connection broke."""


@attrs.define(eq=False)
class _Connection:
    """An open connection; `unread` is the number of replies that were not read yet."""

    stream: trio.abc.Stream
    unread: int = 0
    _replies: hiredis.Reader = attrs.field(factory=hiredis.Reader, init=False)

    async def send(self, commands: Sequence[_Command]) -> None:
        """Send commands, and count their replies as unread."""
        self.unread += len(commands)
        await self.stream.send_all(b"".join(map(_pack, commands)))

    async def receive(self) -> list[Any]:
        """Wait for replies and messages, and return those that arrived at once.

        Raises: RedisDown, if Redis rejected a command or closed the connection.
        """
        replies: list[Any] = []
        while not replies:
            chunk = await _receive_some(self.stream)
            if not chunk:
                raise RedisDown("the connection was closed")
            self._replies.feed(chunk)
            while (reply := self._replies.gets()) is not False:
                if isinstance(reply, hiredis.ReplyError):
                    raise RedisDown(str(reply))
                replies.append(reply)
        return replies

    async def read_replies(self) -> None:
        """Read the replies to all commands that were sent. Raises: RedisDown."""
        while self.unread:
            self.unread -= len(await self.receive())


@attrs.define(eq=False)
class RedisLink:
    """The way to Redis; `client_name` is what CLIENT LIST of Redis shows."""

    _address: RedisAddress
    _channel: str
    _client_name: str
    _publisher: _Connection | None = attrs.field(default=None, init=False)

    async def listen(
        self,
        on_subscribed: Callable[[], None],
        on_messages: Callable[[list[bytes]], None],
        audience: Audience = Audience.ALL,
    ) -> None:
        """Subscribe, and call back with the messages that arrive until the connection breaks.

        These are the messages for an audience, and those for all. Raises: RedisDown.
        """
        channels = {self._channel_of(Audience.ALL), self._channel_of(audience)}
        connection = await self._open()
        await self._close_publisher()
        try:
            await connection.send([("SUBSCRIBE", *channels)])
            while True:
                replies = await connection.receive()
                if any(reply[0] == b"subscribe" and reply[2] == len(channels) for reply in replies):
                    on_subscribed()
                if messages := [reply[2] for reply in replies if reply[0] == b"message"]:
                    on_messages(messages)
        except _BROKEN as error:
            raise RedisDown(_text_of(error)) from error
        finally:
            await _close(connection)

    async def publish(self, payloads: Sequence[tuple[Audience, bytes]]) -> None:
        """Publish messages in order, each for an audience.

        Raises: RedisDown, if these or those of the last call may be lost.
        """
        connection, self._publisher = self._publisher, None
        try:
            if connection is None:
                connection = await self._open()
            await connection.read_replies()
            await connection.send(
                [("PUBLISH", self._channel_of(audience), payload) for audience, payload in payloads]
            )
        except BaseException as error:
            if connection is not None:
                await _close(connection)
            if isinstance(error, _BROKEN):
                raise RedisDown(_text_of(error)) from error
            raise
        self._publisher = connection

    async def ping(self) -> None:
        """Wait for a sign of life, on a connection of its own. Raises: RedisDown."""
        await _close(await self._open())

    async def aclose(self) -> None:
        """Close the connection that publishes, once Redis has everything."""
        connection, self._publisher = self._publisher, None
        if connection is not None:
            try:
                await connection.read_replies()
            except (RedisDown, *_BROKEN):
                pass  # others find the gap
            finally:
                await _close(connection)

    async def _close_publisher(self) -> None:
        """Close the connection that publishes, which has most likely broken with the one before.

        Otherwise the first messages on the new one would be lost: those that announce this process.
        """
        connection, self._publisher = self._publisher, None
        if connection is not None:
            await _close(connection)

    def _channel_of(self, audience: Audience) -> str:
        return self._channel + audience.value

    async def _open(self) -> _Connection:
        """Open a connection and log in. Raises: RedisDown."""
        connection: _Connection | None = None
        try:
            with trio.fail_after(CONNECT_S):
                connection = _Connection(await _open_stream(self._address))
                await connection.send(self._introduction())
                await connection.read_replies()
                return connection
        except BaseException as error:
            if connection is not None:
                await _close(connection)
            if isinstance(error, (*_BROKEN, trio.TooSlowError)):
                text, where = _text_of(error), str(self._address)
                raise RedisDown(text if where in text else f"{where}: {text}") from error
            raise

    def _introduction(self) -> list[_Command]:
        address = self._address
        commands: list[_Command] = []
        if address.username is not None:
            commands.append(("AUTH", address.username, address.password or ""))
        elif address.password is not None:
            commands.append(("AUTH", address.password))
        if address.database:
            commands.append(("SELECT", address.database))
        commands.append(("CLIENT", "SETNAME", self._client_name))
        return commands


async def _open_stream(address: RedisAddress) -> trio.abc.Stream:
    if address.path is not None:
        return await trio.open_unix_socket(address.path)
    stream = await trio.open_tcp_stream(address.host, address.port)
    if not address.tls:
        return stream
    return await start_tls(stream, _tls_of(address), address.host)


async def _receive_some(stream: trio.abc.Stream) -> bytes:
    if not isinstance(stream, trio.SocketStream):
        return bytes(await stream.receive_some(CHUNK))
    # Every process does this for each message of any. The stream would read in vain first.
    while True:
        await trio.lowlevel.wait_readable(stream.socket)
        try:
            return os.read(stream.socket.fileno(), CHUNK)
        except (BlockingIOError, InterruptedError):
            continue


def _tls_of(address: RedisAddress) -> ssl.SSLContext:
    if not (address.ca_file or address.ca_path or address.certificate_file):
        return default_tls()
    context = ssl.create_default_context(cafile=address.ca_file, capath=address.ca_path)
    if address.certificate_file:
        context.load_cert_chain(address.certificate_file, address.private_key_file)
    return context


async def _close(connection: _Connection) -> None:
    with trio.CancelScope(shield=True):
        await trio.aclose_forcefully(connection.stream)


def _text_of(error: BaseException) -> str:
    if isinstance(error, trio.TooSlowError):
        return "no connection in time"
    return str(error) or str(error.__cause__ or type(error).__name__)
