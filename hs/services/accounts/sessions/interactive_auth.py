"""User-interactive authentication: the client proves who it is, stage by stage, then acts.

Sessions are in the database, so that each stage may come to another process. A session serves
one operation of one user only. Stages that a client completes come in the order of a flow; what is
done elsewhere, on our pages, is done when it is done.

Spec: client-server API, User-Interactive Authentication API.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.errors import BadJson, Forbidden, MatrixError, Unknown
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.lib.clock import Clock
from hs.services.accounts.sessions.token_format import random_letters
from hs.settings.sections.accounts import ReauthSettings
from hs.storage.accounts import tokens, uia_sessions
from hs.storage.accounts.uia_sessions import UiaRecord
from hs.storage.database import Database, Tx

SESSION_LIFETIME_MS = 48 * 3_600_000

DUMMY = "m.login.dummy"
PASSWORD = "m.login.password"
REGISTRATION_TOKEN = "m.login.registration_token"

# Clients that always show a captcha send its answer whether it is asked for or not.
UNASKED = frozenset({"m.login.recaptcha"})

Flows = Sequence[Sequence[str]]


class AuthenticationNeeded(MatrixError):
    """The answer 401 that tells what the client can do to prove who it is."""

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
        """Give the body, which names an error only when a stage failed."""
        return super().body() if self.has_failure else dict(self.extra)


@attrs.frozen
class Attempt:
    """One request that tries to complete a stage."""

    session_id: str
    user_id: UserID | None
    auth: JsonObject
    operation: str = ""
    client_ip: str = ""


class Stage(Protocol):
    """One way of proving something."""

    async def check(self, attempt: Attempt) -> JsonObject | None:
        """Accept the proof, and give what it tells. Raises: MatrixError, when it proves nothing."""
        ...


class AnotherUser(Forbidden):
    """Somebody proved who they are, but they are not the requester."""


class Dummy:
    """Proves nothing, so that every operation has at least one stage."""

    async def check(self, attempt: Attempt) -> None:
        return


@attrs.frozen
class Proof:
    """What was proved, with what stages tell.

    `remembered` is what the request asked for that began the session.
    """

    session_id: str | None
    completed: tuple[str, ...]
    registration_token: str | None = None
    remembered: JsonObject = attrs.Factory(dict)
    told: Mapping[str, JsonObject] = attrs.Factory(dict)


@attrs.define(eq=False)
class InteractiveAuth:
    """Leads clients through the stages."""

    _database: Database
    _clock: Clock
    _settings: ReauthSettings
    _stages: Mapping[str, Stage]

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
    ) -> Proof:
        """Give the proof once all stages of a flow are done.

        `operation` says what the proof is for, parameters included that must not change between
        the requests. `always` asks even if the requester has just proved who they are.
        `remembering` gives what a session is to remember of the request that begins it.
        Raises: AuthenticationNeeded; Forbidden for a session of something else; Unknown for a
        session that is not known; BadJson.
        """
        user_id = None if requester is None else requester.user_id
        if not auth:
            if requester is not None and not always and await self._proved_lately(requester):
                return Proof(None, ())
            remembered = {} if remembering is None else await remembering()
            record = await self._begin(operation, user_id, remembered)
            raise AuthenticationNeeded(flows, params or {}, record.session_id, ())
        record = await self._session(auth, operation, user_id)
        attempt = Attempt(record.session_id, user_id, auth, operation, client_ip)
        record = await self._try_stage(record, attempt, flows, params or {})
        done = set(record.completed)
        if not any(done.issuperset(flow) for flow in flows):
            raise AuthenticationNeeded(flows, params or {}, record.session_id, record.completed)
        if requester is not None and requester.token_id is not None:
            await self._database.write(_set_proved, requester.token_id, self._clock.now_ms())
        return Proof(
            record.session_id,
            record.completed,
            record.registration_token,
            record.remembered or {},
            record.proved,
        )

    async def complete_on_page(self, kind: str, auth: JsonObject, client_ip: str) -> None:
        """Complete a stage for a client that shows our page instead of asking itself.

        Raises: Unknown for a session that is not known; MatrixError, when nothing is proved.
        """
        session_id, stage = auth.get("session"), self._stages.get(kind)
        record = None
        if isinstance(session_id, str) and "\0" not in session_id:
            record = await self._database.read(uia_sessions.find, session_id, self._oldest_ms())
        if record is None or record.outcome is not None or stage is None:
            raise Unknown("This authentication session is not known")
        if kind in record.completed:
            return
        user_id = UserID(record.user_id) if record.user_id else None
        attempt = Attempt(record.session_id, user_id, auth, record.operation, client_ip)
        told = await stage.check(attempt)
        await self._database.write(_complete, record, kind, told, self._oldest_ms())

    async def outcome(self, operation: str, auth: JsonObject | None) -> str | None:
        """Give what came of a session, if the operation that it was for is done."""
        session_id = (auth or {}).get("session")
        if not isinstance(session_id, str) or "\0" in session_id:
            return None
        record = await self._database.read(uia_sessions.find, session_id, self._oldest_ms())
        return None if record is None or record.operation != operation else record.outcome

    async def finish(self, proof: Proof) -> None:
        """End the session of a proof that has served its purpose."""
        if proof.session_id is not None:
            await self._database.write(uia_sessions.delete, proof.session_id)

    async def forget_old(self) -> None:
        """Delete sessions that have run out; for a task."""
        await self._database.write(uia_sessions.prune, self._oldest_ms())

    async def _proved_lately(self, requester: Requester) -> bool:
        if self._settings.session_timeout <= 0 or requester.token_id is None:
            return False
        proved_ms = await self._database.read(tokens.proved_ms, requester.token_id)
        return self._clock.now_ms() - proved_ms < self._settings.session_timeout

    async def _begin(
        self, operation: str, user_id: UserID | None, remembered: JsonObject
    ) -> UiaRecord:
        session_id = random_letters(24)
        now_ms = self._clock.now_ms()
        await self._database.write(
            uia_sessions.insert, session_id, operation, user_id or "", now_ms, remembered
        )
        return UiaRecord(session_id, operation, user_id or "", now_ms, (), None, remembered)

    async def _session(self, auth: JsonObject, operation: str, user_id: UserID | None) -> UiaRecord:
        session_id = auth.get("session")
        if session_id is None:
            return await self._begin(operation, user_id, {})
        if not isinstance(session_id, str):
            raise BadJson("'session' must be a string")
        record = None
        if "\0" not in session_id:
            record = await self._database.read(uia_sessions.find, session_id, self._oldest_ms())
        if record is None or record.outcome is not None:
            raise Unknown("This authentication session is not known")
        if record.operation != operation or record.user_id != (user_id or ""):
            raise Forbidden("The request has changed since its authentication began")
        return record

    async def _try_stage(
        self,
        record: UiaRecord,
        attempt: Attempt,
        flows: Flows,
        params: Mapping[str, Any],
    ) -> UiaRecord:
        kind = attempt.auth.get("type")
        if kind is None:
            return record
        if not isinstance(kind, str):
            raise BadJson("'type' must be a string")
        if kind in record.completed:
            # Its answer may have been lost, and some proofs, such as captchas, serve only once.
            return record
        stage = self._stages.get(kind)
        try:
            _check_turn(kind, record.completed, flows)
            if stage is None:
                raise _not_asked()
            told = await stage.check(attempt)
        except MatrixError as error:
            if error.status == 429 or isinstance(error, AnotherUser):
                raise
            raise AuthenticationNeeded(
                flows, params, record.session_id, record.completed, error
            ) from error
        return await self._database.write(_complete, record, kind, told, self._oldest_ms())

    def _oldest_ms(self) -> int:
        return self._clock.now_ms() - SESSION_LIFETIME_MS


def _check_turn(kind: str, completed: Sequence[str], flows: Flows) -> None:
    """Refuse a stage unless there is a flow of which all stages before it are done.

    Spec: client-server API, User-Interactive Authentication API: a flow's stages must be completed
    in order. Raises: MatrixError.
    """
    within = [flow for flow in flows if kind in flow]
    if not within:
        if kind not in UNASKED:
            raise _not_asked()
        return
    if not any(set(flow[: flow.index(kind)]).issubset(completed) for flow in within):
        raise MatrixError("M_FORBIDDEN", 401, "Other stages of this flow come before this one")


def _not_asked() -> MatrixError:
    return MatrixError("M_UNRECOGNIZED", 401, "This stage is not part of any flow")


async def _complete(
    tx: Tx, record: UiaRecord, kind: str, told: JsonObject | None, since_ms: int
) -> UiaRecord:
    # Another request may have completed another stage meanwhile.
    fresh = await uia_sessions.find(tx, record.session_id, since_ms) or record
    if kind not in fresh.completed:
        proved = fresh.proved if told is None else {**fresh.proved, kind: told}
        fresh = fresh._replace(completed=(*fresh.completed, kind), proved=proved)
        await uia_sessions.complete(tx, fresh.session_id, fresh.completed, fresh.proved)
    return fresh


async def _set_proved(tx: Tx, token_id: int, now_ms: int) -> None:
    await tokens.set_proved(tx, token_id, now_ms)
