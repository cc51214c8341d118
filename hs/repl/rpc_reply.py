"""What comes back from a call: a result or an error, and how far the owner's writers are."""

import enum
from typing import Any

import msgspec

import hs.core.errors
from hs.core.errors import MatrixError, RemoteFault

Positions = dict[str, dict[str, int]]  # stream -> writer -> position


class Outcome(enum.IntEnum):
    """How a call ended."""

    RESULT = 0
    MATRIX_ERROR = 1
    REMOTE_FAULT = 2
    FAULT = 3  # a bug of the owner's, or its deadline
    NO_METHOD = 4  # another release


class Reply(msgspec.Struct, array_like=True, frozen=True):
    """The body of every answer to a call."""

    outcome: Outcome
    payload: msgspec.Raw
    positions: Positions = {}


class _MatrixFault(msgspec.Struct, array_like=True, frozen=True):
    kind: str
    errcode: str
    status: int
    message: str
    extra: dict[str, Any]


class _PeerFault(msgspec.Struct, array_like=True, frozen=True):
    server: str
    message: str
    retry: bool
    error: _MatrixFault | None


class RpcFailed(Exception):
    """The owner failed in a way that no client should hear of; its log has the cause."""


class RpcUnavailable(MatrixError):
    """The owner could not be reached in time; the client may try again."""

    def __init__(self, instance: str, cause: str) -> None:
        # The cause is for our log: it may tell of addresses and certificates.
        super().__init__("M_UNKNOWN", 503, f"The process {instance} cannot be reached; try again")
        self.cause = cause

    def __str__(self) -> str:
        return f"{super().__str__()} ({self.cause})"


def matrix_error_payload(error: MatrixError) -> bytes:
    """Encode a MatrixError."""
    return msgspec.msgpack.encode(_describe(error))


def remote_fault_payload(fault: RemoteFault) -> bytes:
    """Encode a RemoteFault."""
    error = _describe(fault.error) if fault.error is not None else None
    return msgspec.msgpack.encode(_PeerFault(fault.server, fault.message, fault.retry, error))


def fault_payload(text: str) -> bytes:
    """Encode the one line told about a bug."""
    return msgspec.msgpack.encode(text)


def raise_from(reply: Reply, instance: str, method: str) -> None:
    """Raise what the owner raised, if it did.

    Raises: MatrixError (of the same class), RemoteFault, RpcFailed.
    """
    match reply.outcome:
        case Outcome.RESULT:
            return
        case Outcome.MATRIX_ERROR:
            raise _restore(msgspec.msgpack.decode(reply.payload, type=_MatrixFault))
        case Outcome.REMOTE_FAULT:
            told = msgspec.msgpack.decode(reply.payload, type=_PeerFault)
            error = _restore(told.error) if told.error is not None else None
            raise RemoteFault(told.server, told.message, error=error, retry=told.retry)
        case _:
            text = msgspec.msgpack.decode(reply.payload, type=str)
            raise RpcFailed(f"{method} at {instance}: {text}")


def _describe(error: MatrixError) -> _MatrixFault:
    return _MatrixFault(
        type(error).__name__, error.errcode, error.status, error.message, error.extra
    )


def _restore(told: _MatrixFault) -> MatrixError:
    kind = getattr(hs.core.errors, told.kind, MatrixError)
    if not (isinstance(kind, type) and issubclass(kind, MatrixError)):
        kind = MatrixError
    # Subclasses fix their errcode in the constructor, but what came may differ.
    error = kind.__new__(kind)
    MatrixError.__init__(error, told.errcode, told.status, told.message, **told.extra)
    return error
