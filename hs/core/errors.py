"""The errors that clients and other servers receive, each with errcode and HTTP status.

Also the exceptions for a failed remote server (`RemoteFault`) and for unreadable keys and events.
"""

from typing import Any, ClassVar


class MatrixError(Exception):
    """An error response `{"errcode": …, "error": …, **extra}` with an HTTP status.

    Spec: client-server API, Standard error response.
    """

    def __init__(self, errcode: str, status: int, message: str = "", **extra: Any) -> None:
        super().__init__(message)
        self.errcode = errcode
        self.status = status
        self.message = message
        self.extra = extra

    def body(self) -> dict[str, Any]:
        """Return the JSON body of the response."""
        return {**self.extra, "errcode": self.errcode, "error": self.message}

    def __str__(self) -> str:
        return f"{self.errcode} ({self.status}): {self.message}"


class _FixedMatrixError(MatrixError):
    """A MatrixError whose errcode and status are fixed by its class."""

    ERRCODE: ClassVar[str]
    STATUS: ClassVar[int]

    def __init__(self, message: str = "", **extra: Any) -> None:
        super().__init__(self.ERRCODE, self.STATUS, message, **extra)


class BadJson(_FixedMatrixError):
    """The request contains valid JSON that is malformed in some way, such as a missing key."""

    ERRCODE, STATUS = "M_BAD_JSON", 400


class NotJson(_FixedMatrixError):
    """The body is not JSON."""

    ERRCODE, STATUS = "M_NOT_JSON", 400


class InvalidParam(_FixedMatrixError):
    """A parameter has an invalid value."""

    ERRCODE, STATUS = "M_INVALID_PARAM", 400


class MissingParam(_FixedMatrixError):
    """A required parameter is missing."""

    ERRCODE, STATUS = "M_MISSING_PARAM", 400


class Unknown(_FixedMatrixError):
    """The request fails for a reason without its own errcode."""

    ERRCODE, STATUS = "M_UNKNOWN", 400


class UserInUse(_FixedMatrixError):
    """The user ID is taken."""

    ERRCODE, STATUS = "M_USER_IN_USE", 400


class InvalidUsername(_FixedMatrixError):
    """The username is not a valid localpart."""

    ERRCODE, STATUS = "M_INVALID_USERNAME", 400


class RoomInUse(_FixedMatrixError):
    """The alias chosen for a new room is taken."""

    ERRCODE, STATUS = "M_ROOM_IN_USE", 400


class InvalidRoomState(_FixedMatrixError):
    """The initial state of a new room is rejected by the authorisation rules."""

    ERRCODE, STATUS = "M_INVALID_ROOM_STATE", 400


class BadState(_FixedMatrixError):
    """The requested change is not possible in the present state."""

    ERRCODE, STATUS = "M_BAD_STATE", 400


class BadAlias(_FixedMatrixError):
    """An alias in `m.room.canonical_alias` does not point to the room."""

    ERRCODE, STATUS = "M_BAD_ALIAS", 400


class Exclusive(_FixedMatrixError):
    """The name belongs to an application service."""

    ERRCODE, STATUS = "M_EXCLUSIVE", 400


class WeakPassword(_FixedMatrixError):
    """The password is too weak."""

    ERRCODE, STATUS = "M_WEAK_PASSWORD", 400


class UnsupportedRoomVersion(_FixedMatrixError):
    """This server does not support the room version."""

    ERRCODE, STATUS = "M_UNSUPPORTED_ROOM_VERSION", 400


class IncompatibleRoomVersion(_FixedMatrixError):
    """The requesting server does not support the room's version; pass `room_version`."""

    ERRCODE, STATUS = "M_INCOMPATIBLE_ROOM_VERSION", 400


class UnableToAuthoriseJoin(_FixedMatrixError):
    """This server cannot determine whether a restricted join is allowed; another may."""

    ERRCODE, STATUS = "M_UNABLE_TO_AUTHORISE_JOIN", 400


class UnableToGrantJoin(_FixedMatrixError):
    """The join is allowed, but no user of this server may invite; another server may grant it."""

    ERRCODE, STATUS = "M_UNABLE_TO_GRANT_JOIN", 400


class DuplicateAnnotation(_FixedMatrixError):
    """The sender has already sent this annotation to the event."""

    ERRCODE, STATUS = "M_DUPLICATE_ANNOTATION", 400


class InvalidSignature(_FixedMatrixError):
    """A signature does not verify."""

    ERRCODE, STATUS = "M_INVALID_SIGNATURE", 400


class ThreepidInUse(_FixedMatrixError):
    """The third-party identifier is bound to another account."""

    ERRCODE, STATUS = "M_THREEPID_IN_USE", 400


class ThreepidMediumNotSupported(_FixedMatrixError):
    """This server does not validate third-party identifiers of this medium."""

    ERRCODE, STATUS = "M_THREEPID_MEDIUM_NOT_SUPPORTED", 400


class ThreepidNotFound(_FixedMatrixError):
    """No account has the third-party identifier."""

    ERRCODE, STATUS = "M_THREEPID_NOT_FOUND", 400


class NoValidSession(_FixedMatrixError):
    """The validation session does not exist or has expired."""

    ERRCODE, STATUS = "M_NO_VALID_SESSION", 400


class AppserviceLoginUnsupported(_FixedMatrixError):
    """This server does not let application services log in; they must use `inhibit_login`."""

    ERRCODE, STATUS = "M_APPSERVICE_LOGIN_UNSUPPORTED", 400


class UnknownDevice(_FixedMatrixError):
    """The user that the application service masquerades as has no such device."""

    ERRCODE, STATUS = "M_UNKNOWN_DEVICE", 400


class UnknownPos(_FixedMatrixError):
    """The position of the sliding sync connection is unknown or has expired."""

    ERRCODE, STATUS = "M_UNKNOWN_POS", 400


class ProfileTooLarge(_FixedMatrixError):
    """The profile would exceed 64 KiB in total."""

    ERRCODE, STATUS = "M_PROFILE_TOO_LARGE", 400


class KeyTooLarge(_FixedMatrixError):
    """The name of a profile field exceeds 255 bytes."""

    ERRCODE, STATUS = "M_KEY_TOO_LARGE", 400


class MissingToken(_FixedMatrixError):
    """The request has no access token."""

    ERRCODE, STATUS = "M_MISSING_TOKEN", 401


class UnknownToken(_FixedMatrixError):
    """The access token is invalid; pass `soft_logout=True` if the device still exists."""

    ERRCODE, STATUS = "M_UNKNOWN_TOKEN", 401


class UserLocked(_FixedMatrixError):
    """The account is locked; pass `soft_logout=True`."""

    ERRCODE, STATUS = "M_USER_LOCKED", 401


class Unauthorized(_FixedMatrixError):
    """The remote server did not authenticate."""

    ERRCODE, STATUS = "M_UNAUTHORIZED", 401


class Forbidden(_FixedMatrixError):
    """The requester is not allowed to do this."""

    ERRCODE, STATUS = "M_FORBIDDEN", 403


class GuestForbidden(_FixedMatrixError):
    """Guests are not allowed to do this, or not in this room."""

    ERRCODE, STATUS = "M_GUEST_ACCESS_FORBIDDEN", 403


class UserDeactivated(_FixedMatrixError):
    """The account is deactivated."""

    ERRCODE, STATUS = "M_USER_DEACTIVATED", 403


class ConsentNotGiven(_FixedMatrixError):
    """The user has not agreed to the terms of service; pass `consent_uri`."""

    ERRCODE, STATUS = "M_CONSENT_NOT_GIVEN", 403


class UserSuspended(_FixedMatrixError):
    """The account is suspended."""

    ERRCODE, STATUS = "M_USER_SUSPENDED", 403


class InviteBlocked(_FixedMatrixError):
    """The invited user does not accept invites from this sender."""

    ERRCODE, STATUS = "M_INVITE_BLOCKED", 403


class ServerNotTrusted(_FixedMatrixError):
    """The third-party server is not trusted by this server."""

    ERRCODE, STATUS = "M_SERVER_NOT_TRUSTED", 400


class ThreepidDenied(_FixedMatrixError):
    """The third-party identifier is not allowed on this server."""

    ERRCODE, STATUS = "M_THREEPID_DENIED", 403


class ThreepidAuthFailed(_FixedMatrixError):
    """The ownership of the third-party identifier was not proved."""

    ERRCODE, STATUS = "M_THREEPID_AUTH_FAILED", 403


class WrongRoomKeysVersion(_FixedMatrixError):
    """The key backup version is not the current one; pass `current_version`."""

    ERRCODE, STATUS = "M_WRONG_ROOM_KEYS_VERSION", 403


class CannotLeaveServerNoticeRoom(_FixedMatrixError):
    """The user cannot reject an invite to the server notices room or leave it."""

    ERRCODE, STATUS = "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM", 403


class ResourceLimitExceeded(_FixedMatrixError):
    """The server has reached a resource limit; pass `limit_type` and `admin_contact`."""

    ERRCODE, STATUS = "M_RESOURCE_LIMIT_EXCEEDED", 403


class UserLimitExceeded(_FixedMatrixError):
    """The user has reached a limit that waiting for a few seconds does not lift."""

    ERRCODE, STATUS = "M_USER_LIMIT_EXCEEDED", 403


class NotFound(_FixedMatrixError):
    """The resource does not exist, or the requester may not know that it exists."""

    ERRCODE, STATUS = "M_NOT_FOUND", 404


class Unrecognized(_FixedMatrixError):
    """The server does not know the endpoint."""

    ERRCODE, STATUS = "M_UNRECOGNIZED", 404


class MethodNotAllowed(_FixedMatrixError):
    """The endpoint exists, but not with this HTTP method."""

    ERRCODE, STATUS = "M_UNRECOGNIZED", 405


class CannotOverwriteMedia(_FixedMatrixError):
    """Media with this ID has already been uploaded."""

    ERRCODE, STATUS = "M_CANNOT_OVERWRITE_MEDIA", 409


class TooLarge(_FixedMatrixError):
    """The request body, event or upload is too large."""

    ERRCODE, STATUS = "M_TOO_LARGE", 413


class NotOwner(MatrixError):
    """Another process writes this, or is about to; nothing was done.

    `stream`, `slot`, `holder` and `epoch` are what the process that was called knows.
    """

    def __init__(self, stream: str, slot: int, holder: str, epoch: int) -> None:
        super().__init__(
            "M_UNKNOWN",
            503,
            "Another process takes over; try again",
            stream=stream,
            slot=slot,
            holder=holder,
            epoch=epoch,
        )

    def __reduce__(self) -> tuple[type["NotOwner"], tuple[str, int, str, int]]:
        extra = self.extra
        return (NotOwner, (extra["stream"], extra["slot"], extra["holder"], extra["epoch"]))

    def body(self) -> dict[str, Any]:
        """Return the JSON body of the response, which names no process."""
        return {"errcode": self.errcode, "error": self.message, "retry_after_ms": 1000}


class LimitExceeded(_FixedMatrixError):
    """Too many requests; pass `retry_after_ms`."""

    ERRCODE, STATUS = "M_LIMIT_EXCEEDED", 429


class NotYetUploaded(_FixedMatrixError):
    """The media ID was reserved, but its content has not been uploaded yet."""

    ERRCODE, STATUS = "M_NOT_YET_UPLOADED", 504


def matrix_error(errcode: str, status: int, message: str, **extra: Any) -> MatrixError:
    """Return an instance of the error class for an errcode and status.

    Used for errors received from another process.
    """
    error_class = _CLASSES.get((errcode, status))
    if error_class is None:
        return MatrixError(errcode, status, message, **extra)
    return error_class(message, **extra)


_CLASSES = {(error.ERRCODE, error.STATUS): error for error in _FixedMatrixError.__subclasses__()}


def may_be_relayed(error: MatrixError) -> bool:
    """Return whether clients may be told an error that another server responded with.

    Errors about a session or an account would be taken for errors of this server: a client that is
    told M_UNKNOWN_TOKEN logs out.
    """
    is_about_client = error.errcode in _ABOUT_CLIENTS or error.status in (401, 429)
    return 400 <= error.status < 500 and not is_about_client


_ABOUT_CLIENTS = frozenset(
    (
        *("M_MISSING_TOKEN", "M_UNKNOWN_TOKEN", "M_UNAUTHORIZED", "M_USER_LOCKED"),
        *("M_USER_DEACTIVATED", "M_USER_SUSPENDED", "M_GUEST_ACCESS_FORBIDDEN"),
        *("M_CONSENT_NOT_GIVEN", "M_RESOURCE_LIMIT_EXCEEDED", "M_USER_LIMIT_EXCEEDED"),
        *("M_LIMIT_EXCEEDED", "M_UNRECOGNIZED", "ORG_MATRIX_EXPIRED_ACCOUNT"),
    )
)


class Unavailable(Exception):
    """Something that this server needs is temporarily unavailable; clients may retry.

    `ANSWER` is what they are told.
    """

    ANSWER: ClassVar[str] = "The server is temporarily unavailable; try again"


class OutcomeUnknown(Unavailable):
    """A change was under way when the database became unavailable: nobody knows yet if it happened.

    When the database is back, the outcome is found out before anything else is written.
    """

    ANSWER = (
        "The database is not available, and it is not known whether the request was carried out. "
        "A request with a transaction ID may safely be repeated with the same one"
    )


class ProcessUnavailable(MatrixError):
    """Another process of this server, or something that it needs, is temporarily unavailable."""

    def __init__(self, message: str) -> None:
        super().__init__("M_UNKNOWN", 503, message, retry_after_ms=2000)


class RemoteFault(Exception):
    """A remote server failed or violated the protocol.

    `error` is the Matrix error that it responded with, if any; `retry` says whether a later attempt
    may succeed. `retry_after_s` is the time for which it asked to be left alone, if it did.
    """

    def __init__(
        self,
        server: str,
        message: str,
        *,
        error: MatrixError | None = None,
        retry: bool = True,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.server = server
        self.message = message
        self.error = error
        self.retry = retry
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.server}: {self.message}"


class InvalidSigningKey(Exception):
    """A signing key file or a public key is malformed."""


class InvalidEvent(Exception):
    """An event of a remote server violates the event format and must be discarded."""


class InvalidEventJson(InvalidEvent):
    """The JSON of an event is not canonical, or not what its room version allows."""
