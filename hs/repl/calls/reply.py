"""A call and the reply to it: a result or an error."""

import enum
from typing import Any

import msgspec

import hs.core.errors
from hs.core.errors import MatrixError, ProcessUnavailable, RemoteFault

WriterPositions = dict[tuple[str, str], int]
"""The positions of writers, by the names of stream and writer."""


class RpcOutcome(enum.IntEnum):
    """How a call ended."""

    RESULT = 0
    MATRIX_ERROR = 1
    REMOTE_FAULT = 2
    FAULT = 3  # a bug in the owner
    NO_METHOD = 4  # the owner is of another release
    LATE = 5  # the deadline passed at the owner


class RpcCall(msgspec.Struct, array_like=True, frozen=True):
    """A call; `method` is that of a Protocol, with its name."""

    method: str
    arguments: msgspec.Raw
    timeout_s: float
    request_id: str = "-"


class RpcReply(msgspec.Struct, array_like=True, frozen=True):
    """The reply to a call."""

    outcome: RpcOutcome
    payload: msgspec.Raw


class _MatrixErrorFields(msgspec.Struct, array_like=True, frozen=True):
    kind: str
    errcode: str
    status: int
    message: str
    extra: dict[str, Any]


class _RemoteFaultFields(msgspec.Struct, array_like=True, frozen=True):
    server: str
    message: str
    retry: bool
    error: _MatrixErrorFields | None
    retry_after_s: float | None = None


class RpcFailed(Exception):
    """The owner failed because of a bug; only its log has the details."""


class RpcUnavailable(ProcessUnavailable):
    """The owner could not be reached in time; the client may retry."""

    def __init__(self, instance: str, cause: str) -> None:
        # The cause goes to the log only, because it may contain addresses and certificates.
        super().__init__(f"The process {instance} cannot be reached; try again")
        self.cause = cause

    def __str__(self) -> str:
        return f"{super().__str__()} ({self.cause})"


class CallNotBegun(ProcessUnavailable):
    """The process that was called cannot have begun the call, and another one may own the key."""

    def __init__(self) -> None:
        super().__init__("Another process takes over; try again")


def matrix_error_payload(error: MatrixError) -> bytes:
    """Encode a MatrixError."""
    return msgspec.msgpack.encode(_describe(error))


def remote_fault_payload(fault: RemoteFault) -> bytes:
    """Encode a RemoteFault."""
    error = _describe(fault.error) if fault.error is not None else None
    return msgspec.msgpack.encode(
        _RemoteFaultFields(fault.server, fault.message, fault.retry, error, fault.retry_after_s)
    )


def fault_payload(text: str) -> bytes:
    """Encode the text that the caller gets about a bug."""
    return msgspec.msgpack.encode(text)


def raise_from(reply: RpcReply, instance: str, method: str) -> None:
    """Raise the error in a reply, if there is one.

    Raises: MatrixError (of the same class, or the base of it that `hs.core.errors` has),
        RemoteFault, RpcUnavailable, RpcFailed.
    """
    match reply.outcome:
        case RpcOutcome.RESULT:
            return
        case RpcOutcome.LATE:
            raise RpcUnavailable(instance, "it did not finish the call in time")
        case RpcOutcome.MATRIX_ERROR:
            raise _restore(msgspec.msgpack.decode(reply.payload, type=_MatrixErrorFields))
        case RpcOutcome.REMOTE_FAULT:
            fault = msgspec.msgpack.decode(reply.payload, type=_RemoteFaultFields)
            error = _restore(fault.error) if fault.error is not None else None
            raise RemoteFault(
                fault.server,
                fault.message,
                error=error,
                retry=fault.retry,
                retry_after_s=fault.retry_after_s,
            )
        case _:
            text = msgspec.msgpack.decode(reply.payload, type=str)
            raise RpcFailed(f"{method} at {instance}: {text}")


def _describe(error: MatrixError) -> _MatrixErrorFields:
    kind = next(base for base in type(error).__mro__ if base.__module__ == hs.core.errors.__name__)
    return _MatrixErrorFields(
        kind.__name__, error.errcode, error.status, error.message, error.extra
    )


def _restore(fields: _MatrixErrorFields) -> MatrixError:
    error_class = getattr(hs.core.errors, fields.kind, MatrixError)
    if not (isinstance(error_class, type) and issubclass(error_class, MatrixError)):
        error_class = MatrixError
    # The constructors of subclasses set an errcode, from which the received one may differ.
    error = error_class.__new__(error_class)
    MatrixError.__init__(error, fields.errcode, fields.status, fields.message, **fields.extra)
    return error
