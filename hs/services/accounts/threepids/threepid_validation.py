"""Validation of third-party identifiers: sessions that send a token and check it.

Rules:

- Sessions are stored in the database, so that any process can handle each step. They expire after
  SESSION_LIFETIME_MS.
- A session is identified by medium, address, client secret and purpose. Concurrent requests with
  the same values share it: the later INSERT finds the row of the earlier one.
- A repeated request with the same `send_attempt` sends nothing. The attempt is stored only after
  the e-mail was accepted, so that a failed one can be repeated. Until then, two concurrent requests
  may both send an e-mail, each with a valid token.
- Every e-mail has its own token. All tokens of a session remain valid until they expire.
- A session proves nothing for another purpose or with another client secret; errors do not reveal
  which of the two is wrong, or whether the session exists.
- Phone numbers are validated by the delegate. The session stores the delegate's session ID, and the
  validated number must equal the number that the session began with.
- The session IDs of `fake_sid` are indistinguishable from others. They hide from clients whether
  an account has an identifier.
"""

import attrs

from hs.core.errors import ThreepidAuthFailed
from hs.core.threepids import EMAIL, MSISDN, canonical_msisdn
from hs.lib.clock import Clock
from hs.services.accounts.sessions.token_format import hash_of, random_letters
from hs.services.accounts.threepids.msisdn_delegate import MsisdnDelegate
from hs.services.accounts.threepids.threepids import ValidatedThreepid
from hs.services.accounts.threepids.validation_emails import (
    PHONE_SUBMIT_PATH,
    ValidationEmails,
    ValidationPurpose,
)
from hs.storage.accounts import threepids
from hs.storage.accounts.threepids import ThreepidSessionRecord
from hs.storage.database import Database, Tx

SESSION_LIFETIME_MS = 24 * 3_600_000
TOKEN_CHARS = 32


@attrs.frozen(kw_only=True)
class ValidationRequest:
    """The parameters of a request for a validation token, except the identifier."""

    purpose: ValidationPurpose
    client_secret: str
    attempt: int
    next_link: str | None = None


@attrs.frozen
class PendingPhoneValidation:
    """A pending phone validation; the client submits the token at `submit_url`."""

    sid: str
    msisdn: str
    submit_url: str


@attrs.frozen(eq=False)
class ThreepidValidation:
    """The validation of e-mail addresses and phone numbers."""

    _database: Database
    _clock: Clock
    mails: ValidationEmails
    _phones: MsisdnDelegate
    _token_lifetime_ms: int

    @property
    def sends_mail(self) -> bool:
        """Whether e-mail addresses can be validated."""
        return self.mails.is_enabled

    @property
    def sends_texts(self) -> bool:
        """Whether phone numbers can be validated."""
        return self._phones.is_configured

    async def begin_email(self, request: ValidationRequest, address: str) -> str:
        """Send a link to an address unless this attempt was made before; return the session ID.

        Raises: InvalidParam, Unavailable.
        """
        token = random_letters(TOKEN_CHARS)
        now_ms = self._clock.now_ms()
        session = await self._database.write(
            _begin, self._new_record(request, EMAIL, address), hash_of(token), now_ms,
            now_ms + self._token_lifetime_ms,
        )  # fmt: skip
        if session.attempt >= request.attempt:
            return session.sid
        await self.mails.send_link(
            request.purpose, address, session.sid, request.client_secret, token
        )
        # Stored only now, so that a failed attempt can be repeated.
        await self._database.write(
            threepids.record_message_sent, session.sid, request.attempt, request.next_link
        )
        return session.sid

    async def begin_phone(
        self, request: ValidationRequest, country: str, number: str
    ) -> PendingPhoneValidation:
        """Request a text message; return the session.

        Raises: MatrixError, RemoteFault, InvalidParam.
        """
        remote = await self._phones.request_token(
            client_secret=request.client_secret,
            country=country,
            phone_number=number,
            send_attempt=request.attempt,
            next_link=None,
        )
        address = canonical_msisdn(remote.msisdn or number)
        session = await self._database.write(
            _begin_remote, self._new_record(request, MSISDN, address), request, remote.sid,
            self._clock.now_ms() - SESSION_LIFETIME_MS,
        )  # fmt: skip
        return self._phone_validation(session.sid, address)

    async def submit_email_token(
        self, purpose: ValidationPurpose, sid: str, client_secret: str, token: str
    ) -> str | None:
        """Check the token of an e-mail; return the URL to redirect the browser to, or None.

        Raises: ThreepidAuthFailed.
        """
        session = await self._find_session(sid, client_secret)
        if session is None or session.purpose != purpose.value:
            raise ThreepidAuthFailed("This link is invalid or has been used")
        now_ms = self._clock.now_ms()
        if not await self._database.write(_confirm, sid, hash_of(token), now_ms):
            raise ThreepidAuthFailed("This link has expired or is invalid")
        return session.next_link

    async def submit_phone_token(self, sid: str, client_secret: str, token: str) -> bool:
        """Return whether the token of a text message is correct; False for an unknown session.

        Raises: MatrixError, RemoteFault.
        """
        session = await self._find_session(sid, client_secret)
        if session is None or session.remote_sid is None:
            return False
        return await self._phones.submit(session.remote_sid, client_secret, token)

    async def validated(
        self, purpose: ValidationPurpose, sid: str, client_secret: str
    ) -> ValidatedThreepid | None:
        """Return the identifier validated by a session for a purpose, or None.

        Raises: RemoteFault.
        """
        session = await self._find_session(sid, client_secret)
        if session is None or session.purpose != purpose.value:
            return None
        if session.remote_sid is not None:
            phone = await self._phones.validated(session.remote_sid, client_secret)
            if phone is None or canonical_msisdn(phone.address) != session.address:
                return None
            return ValidatedThreepid(MSISDN, session.address, phone.validated_at)
        if session.validated_ms is None:
            return None
        return ValidatedThreepid(session.medium, session.address, session.validated_ms)

    async def end_session(self, sid: str) -> None:
        """Delete a session, so that it cannot be used again."""
        await self._database.write(threepids.delete_session, sid)

    async def delete_expired(self) -> None:
        """Delete expired tokens and sessions."""
        now_ms = self._clock.now_ms()
        await self._database.write(threepids.prune, now_ms, now_ms - SESSION_LIFETIME_MS)

    def fake_sid(self) -> str:
        """Return the ID of a session that does not exist."""
        return random_letters(TOKEN_CHARS)

    def fake_phone_validation(self, address: str) -> PendingPhoneValidation:
        """Return a phone validation that does not exist."""
        return self._phone_validation(self.fake_sid(), address)

    def _phone_validation(self, sid: str, address: str) -> PendingPhoneValidation:
        return PendingPhoneValidation(sid, address, self.mails.url_of(PHONE_SUBMIT_PATH))

    def _new_record(
        self, request: ValidationRequest, medium: str, address: str
    ) -> ThreepidSessionRecord:
        return ThreepidSessionRecord(
            sid=random_letters(TOKEN_CHARS),
            purpose=request.purpose.value,
            client_secret=request.client_secret,
            medium=medium,
            address=address,
            attempt=0,
            remote_sid=None,
            next_link=request.next_link,
            created_ms=self._clock.now_ms(),
            validated_ms=None,
        )

    async def _find_session(self, sid: str, client_secret: str) -> ThreepidSessionRecord | None:
        since_ms = self._clock.now_ms() - SESSION_LIFETIME_MS
        session = await self._database.read(threepids.find_session, sid, since_ms)
        if session is None or session.client_secret != client_secret:
            return None
        return session


async def _begin(
    tx: Tx, new_session: ThreepidSessionRecord, token_hash: str, now_ms: int, expires_ms: int
) -> ThreepidSessionRecord:
    session = await threepids.begin_session(tx, new_session, now_ms - SESSION_LIFETIME_MS)
    await threepids.add_token(tx, token_hash, session.sid, expires_ms)
    return session


async def _begin_remote(
    tx: Tx,
    new_session: ThreepidSessionRecord,
    request: ValidationRequest,
    remote_sid: str,
    since_ms: int,
) -> ThreepidSessionRecord:
    session = await threepids.begin_session(tx, new_session, since_ms)
    await threepids.record_message_sent(
        tx, session.sid, request.attempt, request.next_link, remote_sid
    )
    return session


async def _confirm(tx: Tx, sid: str, token_hash: str, now_ms: int) -> bool:
    if not await threepids.token_belongs_to_session(tx, token_hash, sid, now_ms):
        return False
    await threepids.set_validated(tx, sid, now_ms)
    return True
