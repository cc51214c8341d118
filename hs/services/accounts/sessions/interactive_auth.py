"""User-interactive authentication (UIA): a client completes the stages of a flow, then acts.

Rules:

- Sessions are stored in the database, so that any process can handle any stage. They expire after
  SESSION_LIFETIME_MS.
- Of each user, and of each address without a user, only the newest sessions are kept, and so are
  those of all users together: nobody can fill the database with them.
- A session is valid for one operation of one user. The operation string includes the parameters
  that must not change between requests.
- A client must complete the stages in the order of a flow. Stages that a user completes on a page
  of this server (`complete_on_page`) count whenever they are completed.
- Completed stages are kept: a repeated stage succeeds without another check, because its response
  may have been lost and some proofs, such as captchas, are valid only once.
- Two requests may complete different stages of a session at once. Each adds its stage to the row
  in a transaction that reads the row again, so that neither result is lost.
- A session with an outcome (a created account) proves nothing more; `outcome` returns it to a
  repeated request.

Spec: client-server API, User-Interactive Authentication API.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.errors import BadJson, Forbidden, MatrixError, Unknown
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.lib.client_sources import source_of
from hs.lib.clock import Clock
from hs.services.accounts.sessions.open_sessions import MAX_STORED, OpenSessions
from hs.services.accounts.sessions.token_format import random_letters
from hs.settings.sections.accounts import ReauthSettings
from hs.storage.accounts import tokens, uia_sessions
from hs.storage.accounts.uia_sessions import UiaSessionRecord
from hs.storage.database import Database, Tx

SESSION_LIFETIME_MS = 48 * 3_600_000

DUMMY = "m.login.dummy"
PASSWORD = "m.login.password"
REGISTRATION_TOKEN = "m.login.registration_token"

# Clients that always show a captcha send its response even if no flow contains the stage.
TOLERATED_STAGES = frozenset({"m.login.recaptcha"})

Flows = Sequence[Sequence[str]]


class AuthenticationNeeded(MatrixError):
    """The 401 response that lists the flows and completed stages to the client."""

    def __init__(
        self,
        flows: Flows,
        params: Mapping[str, Any],
        session: str,
        completed: Sequence[str],
        failure: MatrixError | None = None,
    ) -> None:
        message = "Authentication is needed" if failure is None else failure.message
        super().__init__("M_FORBIDDEN" if failure is None else failure.errcode, 401, message)
        self.session = session
        self.extra = {
            "flows": [{"stages": list(flow)} for flow in flows],
            "params": dict(params),
            "session": session,
        }
        if completed or failure is not None:
            self.extra["completed"] = list(completed)
        self.has_failure = failure is not None

    def body(self) -> dict[str, Any]:
        """Return the body, which contains an error only if a stage failed."""
        return super().body() if self.has_failure else dict(self.extra)


@attrs.frozen
class StageAttempt:
    """A request to complete a stage."""

    session_id: str
    user_id: UserID | None
    auth: JsonObject
    operation: str = ""
    client_ip: str = ""


class UiaStage(Protocol):
    """The check of one stage type."""

    async def check(self, attempt: StageAttempt) -> JsonObject | None:
        """Accept the attempt and return the stage's result. Raises: MatrixError if it fails."""
        ...


class AuthenticatedAsOtherUser(Forbidden):
    """The user who authenticated is not the requester."""


class DummyStage:
    """The stage `m.login.dummy`, which always succeeds."""

    async def check(self, attempt: StageAttempt) -> None:
        return


@attrs.frozen
class UiaProof:
    """A completed flow, with the results of its stages.

    `remembered` holds the stored parameters of the request that began the session.
    """

    session_id: str | None
    completed: tuple[str, ...]
    registration_token: str | None = None
    remembered: JsonObject = attrs.Factory(dict)
    results: Mapping[str, JsonObject] = attrs.Factory(dict)


@attrs.define(eq=False)
class InteractiveAuth:
    """The state machine of UIA sessions."""

    _database: Database
    _clock: Clock
    _settings: ReauthSettings
    _stages: Mapping[str, UiaStage]
    _open: OpenSessions = attrs.field(factory=OpenSessions, init=False)

    async def prove(
        self,
        operation: str,
        auth: JsonObject | None,
        flows: Flows,
        requester: Requester | None = None,
        *,
        params: Mapping[str, Any] | None = None,
        always: bool = False,
        remembering: Callable[[], Awaitable[JsonObject]] | None = None,
        client_ip: str = "",
    ) -> UiaProof:
        """Return the proof if all stages of a flow are completed.

        `operation` identifies the operation, including parameters that must not change between
        the requests. `always` requires authentication even if the requester has recently
        authenticated. `remembering` returns the data to store in a new session.
        Raises: AuthenticationNeeded; Forbidden for a session of another operation or user; Unknown
        for an unknown session; BadJson.
        """
        user_id = None if requester is None else requester.user_id
        if not auth:
            if (
                requester is not None
                and not always
                and await self._has_authenticated_recently(requester)
            ):
                return UiaProof(None, ())
            session_data = {} if remembering is None else await remembering()
            record = await self._begin_session(operation, user_id, session_data, client_ip)
            raise AuthenticationNeeded(flows, params or {}, record.session_id, ())
        record = await self._find_or_begin_session(auth, operation, user_id, client_ip)
        attempt = StageAttempt(record.session_id, user_id, auth, operation, client_ip)
        record = await self._try_stage(record, attempt, flows, params or {})
        completed = set(record.completed)
        if not any(completed.issuperset(flow) for flow in flows):
            raise AuthenticationNeeded(flows, params or {}, record.session_id, record.completed)
        if requester is not None and requester.token_id is not None:
            await self._database.write(_set_authenticated, requester.token_id, self._clock.now_ms())
        return UiaProof(
            record.session_id,
            record.completed,
            record.registration_token,
            record.request_parameters or {},
            record.results,
        )

    async def complete_on_page(self, kind: str, auth: JsonObject, client_ip: str) -> None:
        """Complete a stage on behalf of a client that shows this server's fallback page.

        Raises: Unknown for an unknown session; MatrixError if the stage fails.
        """
        session_id, stage = auth.get("session"), self._stages.get(kind)
        record = None
        if isinstance(session_id, str) and "\0" not in session_id:
            record = await self._database.read(uia_sessions.find, session_id, self._oldest_ms())
        if record is None or record.outcome is not None or stage is None:
            raise Unknown("Unknown UIA session")
        if kind in record.completed:
            return
        user_id = UserID(record.user_id) if record.user_id else None
        attempt = StageAttempt(record.session_id, user_id, auth, record.operation, client_ip)
        result = await stage.check(attempt)
        await self._database.write(_add_completed_stage, record, kind, result, self._oldest_ms())

    async def outcome(self, operation: str, auth: JsonObject | None) -> str | None:
        """Return the outcome of a session, or None if its operation is not finished."""
        session_id = (auth or {}).get("session")
        if not isinstance(session_id, str) or "\0" in session_id:
            return None
        record = await self._database.read(uia_sessions.find, session_id, self._oldest_ms())
        return None if record is None or record.operation != operation else record.outcome

    async def finish(self, proof: UiaProof) -> None:
        """Delete the session of a proof that has been used."""
        if proof.session_id is not None:
            await self._database.write(uia_sessions.delete, proof.session_id)

    async def delete_expired_sessions(self) -> None:
        """Delete expired sessions, and the oldest ones beyond MAX_STORED."""
        await self._database.write(uia_sessions.prune, self._oldest_ms(), MAX_STORED)

    async def _has_authenticated_recently(self, requester: Requester) -> bool:
        if self._settings.session_timeout <= 0 or requester.token_id is None:
            return False
        proved_ms = await self._database.read(tokens.proved_ms, requester.token_id)
        return self._clock.now_ms() - proved_ms < self._settings.session_timeout

    async def _begin_session(
        self, operation: str, user_id: UserID | None, remembered: JsonObject, client_ip: str
    ) -> UiaSessionRecord:
        session_id = random_letters(24)
        now_ms = self._clock.now_ms()
        record = UiaSessionRecord(
            session_id=session_id,
            operation=operation,
            user_id=user_id or "",
            created_ms=now_ms,
            completed=(),
            registration_token=None,
            request_parameters=remembered,
        )
        replaced = self._open.add(user_id or source_of(client_ip), session_id)
        await self._database.write(_insert, record, replaced)
        return record

    async def _find_or_begin_session(
        self, auth: JsonObject, operation: str, user_id: UserID | None, client_ip: str
    ) -> UiaSessionRecord:
        session_id = auth.get("session")
        if session_id is None:
            return await self._begin_session(operation, user_id, {}, client_ip)
        if not isinstance(session_id, str):
            raise BadJson("'session' must be a string")
        record = None
        if "\0" not in session_id:
            record = await self._database.read(uia_sessions.find, session_id, self._oldest_ms())
        if record is None or record.outcome is not None:
            raise Unknown("Unknown UIA session")
        if record.operation != operation or record.user_id != (user_id or ""):
            raise Forbidden("The UIA session was started for a different request")
        return record

    async def _try_stage(
        self,
        record: UiaSessionRecord,
        attempt: StageAttempt,
        flows: Flows,
        params: Mapping[str, Any],
    ) -> UiaSessionRecord:
        kind = attempt.auth.get("type")
        if kind is None:
            return record
        if not isinstance(kind, str):
            raise BadJson("'type' must be a string")
        if kind in record.completed:
            # The response may have been lost, and some proofs, such as captchas, are valid once.
            return record
        stage = self._stages.get(kind)
        try:
            _check_order(kind, record.completed, flows)
            if stage is None:
                raise _not_in_any_flow()
            result = await stage.check(attempt)
        except MatrixError as error:
            if error.status == 429 or isinstance(error, AuthenticatedAsOtherUser):
                raise
            raise AuthenticationNeeded(
                flows, params, record.session_id, record.completed, error
            ) from error
        return await self._database.write(
            _add_completed_stage, record, kind, result, self._oldest_ms()
        )

    def _oldest_ms(self) -> int:
        return self._clock.now_ms() - SESSION_LIFETIME_MS


def _check_order(kind: str, completed: Sequence[str], flows: Flows) -> None:
    """Reject a stage unless all stages before it in some flow are completed.

    Spec: client-server API, User-Interactive Authentication API: a flow's stages must be completed
    in order. Raises: MatrixError.
    """
    candidate_flows = [flow for flow in flows if kind in flow]
    if not candidate_flows:
        if kind not in TOLERATED_STAGES:
            raise _not_in_any_flow()
        return
    if not any(set(flow[: flow.index(kind)]).issubset(completed) for flow in candidate_flows):
        raise MatrixError(
            "M_FORBIDDEN", 401, "Other stages of the flow must be completed before this one"
        )


def _not_in_any_flow() -> MatrixError:
    return MatrixError("M_UNRECOGNIZED", 401, "This stage is not part of any flow")


async def _insert(tx: Tx, record: UiaSessionRecord, replaced: list[str]) -> None:
    for session_id in replaced:
        await uia_sessions.delete(tx, session_id)
    await uia_sessions.insert(tx, record)


async def _add_completed_stage(
    tx: Tx, record: UiaSessionRecord, kind: str, result: JsonObject | None, since_ms: int
) -> UiaSessionRecord:
    # Another request may have completed another stage since the session was read.
    current = await uia_sessions.find(tx, record.session_id, since_ms) or record
    if kind not in current.completed:
        results = current.results if result is None else {**current.results, kind: result}
        current = current._replace(completed=(*current.completed, kind), results=results)
        await uia_sessions.record_completed(
            tx, current.session_id, current.completed, current.results
        )
    return current


async def _set_authenticated(tx: Tx, token_id: int, now_ms: int) -> None:
    await tokens.set_proved(tx, token_id, now_ms)
