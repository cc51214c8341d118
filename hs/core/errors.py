"""Every error a client or a peer may hear, with errcode and HTTP status; and a peer's failure."""

from typing import Any, ClassVar


class MatrixError(Exception):
    """An answer of the form `{"errcode": …, "error": …, **extra}` with an HTTP status.

    Spec: client-server API, Standard error response.
    """

    def __init__(self, errcode: str, status: int, message: str = "", **extra: Any) -> None:
        super().__init__(message)
        self.errcode = errcode
        self.status = status
        self.message = message
        self.extra = extra

    def body(self) -> dict[str, Any]:
        """Give the JSON body of the answer."""
        return {**self.extra, "errcode": self.errcode, "error": self.message}

    def __str__(self) -> str:
        return f"{self.errcode} ({self.status}): {self.message}"


class _Fixed(MatrixError):
    """A MatrixError whose errcode and status belong to its class."""

    ERRCODE: ClassVar[str]
    STATUS: ClassVar[int]

    def __init__(self, message: str = "", **extra: Any) -> None:
        super().__init__(self.ERRCODE, self.STATUS, message, **extra)


class BadJson(_Fixed):
    """The JSON is well formed but not what the endpoint takes."""

    ERRCODE, STATUS = "M_BAD_JSON", 400


class NotJson(_Fixed):
    """The body is not JSON."""

    ERRCODE, STATUS = "M_NOT_JSON", 400


class InvalidParam(_Fixed):
    """A parameter has a wrong value."""

    ERRCODE, STATUS = "M_INVALID_PARAM", 400


class MissingParam(_Fixed):
    """A required parameter is absent."""

    ERRCODE, STATUS = "M_MISSING_PARAM", 400


class Unknown(_Fixed):
    """The request fails for a reason without an errcode of its own."""

    ERRCODE, STATUS = "M_UNKNOWN", 400


class UserInUse(_Fixed):
    """The user ID is taken."""

    ERRCODE, STATUS = "M_USER_IN_USE", 400


class InvalidUsername(_Fixed):
    """The user name is not a legal localpart."""

    ERRCODE, STATUS = "M_INVALID_USERNAME", 400


class RoomInUse(_Fixed):
    """The room alias of a room to be created is taken."""

    ERRCODE, STATUS = "M_ROOM_IN_USE", 400


class InvalidRoomState(_Fixed):
    """The state asked for at creation of a room does not pass its rules."""

    ERRCODE, STATUS = "M_INVALID_ROOM_STATE", 400


class BadState(_Fixed):
    """The change is not possible in the present state."""

    ERRCODE, STATUS = "M_BAD_STATE", 400


class BadAlias(_Fixed):
    """An alias in `m.room.canonical_alias` does not point to the room."""

    ERRCODE, STATUS = "M_BAD_ALIAS", 400


class Exclusive(_Fixed):
    """The name belongs to an application service."""

    ERRCODE, STATUS = "M_EXCLUSIVE", 400


class WeakPassword(_Fixed):
    """The password is too weak."""

    ERRCODE, STATUS = "M_WEAK_PASSWORD", 400


class UnsupportedRoomVersion(_Fixed):
    """This server does not know the room version."""

    ERRCODE, STATUS = "M_UNSUPPORTED_ROOM_VERSION", 400


class IncompatibleRoomVersion(_Fixed):
    """The asking server does not know the room's version; give `room_version`."""

    ERRCODE, STATUS = "M_INCOMPATIBLE_ROOM_VERSION", 400


class UnableToAuthoriseJoin(_Fixed):
    """This server cannot tell whether a restricted join is allowed; others may."""

    ERRCODE, STATUS = "M_UNABLE_TO_AUTHORISE_JOIN", 400


class UnableToGrantJoin(_Fixed):
    """The join is allowed, but no user of this server may invite; others may."""

    ERRCODE, STATUS = "M_UNABLE_TO_GRANT_JOIN", 400


class DuplicateAnnotation(_Fixed):
    """The sender has already reacted so."""

    ERRCODE, STATUS = "M_DUPLICATE_ANNOTATION", 400


class InvalidSignature(_Fixed):
    """A signature does not verify."""

    ERRCODE, STATUS = "M_INVALID_SIGNATURE", 400


class ThreepidInUse(_Fixed):
    """The third-party identifier is bound to another account."""

    ERRCODE, STATUS = "M_THREEPID_IN_USE", 400


class ThreepidMediumNotSupported(_Fixed):
    """This server validates no such third-party identifiers."""

    ERRCODE, STATUS = "M_THREEPID_MEDIUM_NOT_SUPPORTED", 400


class ThreepidNotFound(_Fixed):
    """No account has the third-party identifier."""

    ERRCODE, STATUS = "M_THREEPID_NOT_FOUND", 400


class NoValidSession(_Fixed):
    """The validation session does not exist or has run out."""

    ERRCODE, STATUS = "M_NO_VALID_SESSION", 400


class AppserviceLoginUnsupported(_Fixed):
    """Application services cannot log in here; they use `inhibit_login`."""

    ERRCODE, STATUS = "M_APPSERVICE_LOGIN_UNSUPPORTED", 400


class UnknownDevice(_Fixed):
    """The user whom an application service speaks for has no such device."""

    ERRCODE, STATUS = "M_UNKNOWN_DEVICE", 400


class UnknownPos(_Fixed):
    """The sliding sync connection's position is not known any more."""

    ERRCODE, STATUS = "M_UNKNOWN_POS", 400


class ProfileTooLarge(_Fixed):
    """The whole profile would be larger than 64 KiB."""

    ERRCODE, STATUS = "M_PROFILE_TOO_LARGE", 400


class KeyTooLarge(_Fixed):
    """The name of a profile field is longer than 255 bytes."""

    ERRCODE, STATUS = "M_KEY_TOO_LARGE", 400


class MissingToken(_Fixed):
    """The request needs an access token."""

    ERRCODE, STATUS = "M_MISSING_TOKEN", 401


class UnknownToken(_Fixed):
    """The access token is not valid; `soft_logout=True` when the device lives on."""

    ERRCODE, STATUS = "M_UNKNOWN_TOKEN", 401


class UserLocked(_Fixed):
    """The account is locked; comes with `soft_logout=True`."""

    ERRCODE, STATUS = "M_USER_LOCKED", 401


class Unauthorized(_Fixed):
    """The peer did not authenticate."""

    ERRCODE, STATUS = "M_UNAUTHORIZED", 401


class Forbidden(_Fixed):
    """The requester may not do this."""

    ERRCODE, STATUS = "M_FORBIDDEN", 403


class GuestForbidden(_Fixed):
    """Guests may not do this, or not in this room."""

    ERRCODE, STATUS = "M_GUEST_ACCESS_FORBIDDEN", 403


class UserDeactivated(_Fixed):
    """The account is deactivated."""

    ERRCODE, STATUS = "M_USER_DEACTIVATED", 403


class ConsentNotGiven(_Fixed):
    """The user has not agreed to the terms of use; give `consent_uri`."""

    ERRCODE, STATUS = "M_CONSENT_NOT_GIVEN", 403


class UserSuspended(_Fixed):
    """The account is suspended."""

    ERRCODE, STATUS = "M_USER_SUSPENDED", 403


class InviteBlocked(_Fixed):
    """The invited user takes no invites from this sender."""

    ERRCODE, STATUS = "M_INVITE_BLOCKED", 403


class ServerNotTrusted(_Fixed):
    """The third-party server is not one this server trusts."""

    ERRCODE, STATUS = "M_SERVER_NOT_TRUSTED", 400


class ThreepidDenied(_Fixed):
    """The third-party identifier is not permitted here."""

    ERRCODE, STATUS = "M_THREEPID_DENIED", 403


class ThreepidAuthFailed(_Fixed):
    """The third-party identifier was not proved."""

    ERRCODE, STATUS = "M_THREEPID_AUTH_FAILED", 403


class WrongRoomKeysVersion(_Fixed):
    """The key backup version is not the current one; give `current_version`."""

    ERRCODE, STATUS = "M_WRONG_ROOM_KEYS_VERSION", 403


class CannotLeaveServerNoticeRoom(_Fixed):
    """The server notices room cannot be refused."""

    ERRCODE, STATUS = "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM", 403


class ResourceLimitExceeded(_Fixed):
    """The server has reached a limit; give `limit_type` and `admin_contact`."""

    ERRCODE, STATUS = "M_RESOURCE_LIMIT_EXCEEDED", 403


class UserLimitExceeded(_Fixed):
    """The user has reached a limit that only time or an administrator lifts."""

    ERRCODE, STATUS = "M_USER_LIMIT_EXCEEDED", 403


class NotFound(_Fixed):
    """There is no such thing, or the requester may not know of it."""

    ERRCODE, STATUS = "M_NOT_FOUND", 404


class Unrecognized(_Fixed):
    """No such endpoint (404), or not with this method (405)."""

    ERRCODE, STATUS = "M_UNRECOGNIZED", 404


class MethodNotAllowed(_Fixed):
    """The endpoint exists, with another method."""

    ERRCODE, STATUS = "M_UNRECOGNIZED", 405


class CannotOverwriteMedia(_Fixed):
    """The media has already been uploaded."""

    ERRCODE, STATUS = "M_CANNOT_OVERWRITE_MEDIA", 409


class TooLarge(_Fixed):
    """The body, event or upload is too large."""

    ERRCODE, STATUS = "M_TOO_LARGE", 413


class LimitExceeded(_Fixed):
    """Too many requests; give `retry_after_ms`."""

    ERRCODE, STATUS = "M_LIMIT_EXCEEDED", 429


class NotYetUploaded(_Fixed):
    """The media was announced but is not here yet."""

    ERRCODE, STATUS = "M_NOT_YET_UPLOADED", 504


def matrix_error(errcode: str, status: int, message: str, **extra: Any) -> MatrixError:
    """Make the error of the class that belongs to an errcode, as one that crossed a process."""
    known = _CLASSES.get((errcode, status))
    if known is None:
        return MatrixError(errcode, status, message, **extra)
    return known(message, **extra)


_CLASSES = {(known.ERRCODE, known.STATUS): known for known in _Fixed.__subclasses__()}


class Unavailable(Exception):
    """Something this server itself needs is away for now; clients may try again."""


class RemoteFault(Exception):
    """A peer failed or broke the protocol; names the server.

    `error` is what the peer answered, when it answered with a Matrix error; `retry` tells
    whether asking again later may help.
    """

    def __init__(
        self, server: str, message: str, *, error: MatrixError | None = None, retry: bool = True
    ) -> None:
        super().__init__(message)
        self.server = server
        self.message = message
        self.error = error
        self.retry = retry

    def __str__(self) -> str:
        return f"{self.server}: {self.message}"


class InvalidSigningKey(Exception):
    """A signing key file or a public key cannot be read."""


class InvalidEvent(Exception):
    """An event that a peer sent breaks the event format and must be discarded."""
