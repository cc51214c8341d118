"""Proving that one holds an address: sessions that begin with a message and end with its token.

Sessions are in the database, so that each step may come to another process.
"""

from typing import Protocol

import attrs

from hs.core.errors import ThreepidAuthFailed
from hs.core.threepids import EMAIL, MSISDN, canonical_msisdn
from hs.lib.clock import Clock
from hs.services.accounts.sessions.token_format import hash_of, random_letters
from hs.services.accounts.threepids.msisdn_delegate import PhoneSession, ValidatedPhone
from hs.services.accounts.threepids.threepids import Validated
from hs.services.accounts.threepids.validation_emails import PHONE_SUBMIT_PATH, ProofMails, Purpose
from hs.storage.accounts import threepids
from hs.storage.accounts.threepids import SessionRecord
from hs.storage.database import Database, Tx

SESSION_LIFETIME_MS = 24 * 3_600_000
TOKEN_CHARS = 32


class Phones(Protocol):
    """Sends text messages and checks what came back."""

    @property
    def is_there(self) -> bool:
        """Tell whether there is anybody to send them."""
        ...

    async def request_token(
        self,
        *,
        client_secret: str,
        country: str,
        phone_number: str,
        send_attempt: int,
        next_link: str | None,
    ) -> PhoneSession:
        """Have a message sent. Raises: MatrixError, RemoteFault."""
        ...

    async def submit(self, sid: str, client_secret: str, token: str) -> bool:
        """Hand in what the message said; tell whether it is right. Raises: as before."""
        ...

    async def validated(self, sid: str, client_secret: str) -> ValidatedPhone | None:
        """Give the number a session proved. Raises: RemoteFault."""
        ...


@attrs.frozen(kw_only=True)
class Asked:
    """What somebody asks for who wants to prove an address."""

    purpose: Purpose
    client_secret: str
    attempt: int
    next_link: str | None = None


@attrs.frozen
class PhoneProof:
    """A proof by telephone under way; `submit_url`: where the client hands the token in."""

    sid: str
    msisdn: str
    submit_url: str


@attrs.frozen(eq=False)
class AddressProofs:
    """Sends the messages and takes what comes back."""

    _database: Database
    _clock: Clock
    mails: ProofMails
    _phones: Phones
    _token_lifetime_ms: int

    @property
    def sends_mail(self) -> bool:
        """Tell whether e-mail addresses can be proved here."""
        return self.mails.is_open

    @property
    def sends_texts(self) -> bool:
        """Tell whether telephone numbers can be proved here."""
        return self._phones.is_there

    async def begin_by_mail(self, asked: Asked, address: str) -> str:
        """Send a link to an address, unless this attempt is done already; give the session.

        Raises: InvalidParam, Unavailable.
        """
        token = random_letters(TOKEN_CHARS)
        now_ms = self._clock.now_ms()
        session = await self._database.write(
            _begin, self._session(asked, EMAIL, address), hash_of(token), now_ms,
            now_ms + self._token_lifetime_ms,
        )  # fmt: skip
        if session.attempt >= asked.attempt:
            return session.sid
        await self.mails.send_link(asked.purpose, address, session.sid, asked.client_secret, token)
        # Only now, so that an attempt that failed may be made again.
        await self._database.write(threepids.set_sent, session.sid, asked.attempt, asked.next_link)
        return session.sid

    async def begin_by_phone(self, asked: Asked, country: str, number: str) -> PhoneProof:
        """Have a text message sent; give the session.

        Raises: MatrixError, RemoteFault, InvalidParam.
        """
        remote = await self._phones.request_token(
            client_secret=asked.client_secret,
            country=country,
            phone_number=number,
            send_attempt=asked.attempt,
            next_link=None,
        )
        address = canonical_msisdn(remote.msisdn or number)
        session = await self._database.write(
            _begin_remote, self._session(asked, MSISDN, address), asked, remote.sid,
            self._clock.now_ms() - SESSION_LIFETIME_MS,
        )  # fmt: skip
        return self._phone_proof(session.sid, address)

    async def submit_mail(
        self, purpose: Purpose, sid: str, client_secret: str, token: str
    ) -> str | None:
        """Take the token of an e-mail; give where the browser is to go next, if anywhere.

        Raises: ThreepidAuthFailed.
        """
        session = await self._session_of(sid, client_secret)
        if session is None or session.purpose != purpose.value:
            raise ThreepidAuthFailed("This link is not known, or was used up")
        now_ms = self._clock.now_ms()
        if not await self._database.write(_confirm, sid, hash_of(token), now_ms):
            raise ThreepidAuthFailed("This link has expired, or a newer one was sent")
        return session.next_link

    async def submit_phone(self, sid: str, client_secret: str, token: str) -> bool:
        """Take the token of a text message; tell whether it is right.

        No token is right for a session that there is not. Raises: MatrixError, RemoteFault.
        """
        session = await self._session_of(sid, client_secret)
        if session is None or session.remote_sid is None:
            return False
        return await self._phones.submit(session.remote_sid, client_secret, token)

    async def validated(self, purpose: Purpose, sid: str, client_secret: str) -> Validated | None:
        """Give the address that a session has proved for a purpose. Raises: RemoteFault."""
        session = await self._session_of(sid, client_secret)
        if session is None or session.purpose != purpose.value:
            return None
        if session.remote_sid is not None:
            phone = await self._phones.validated(session.remote_sid, client_secret)
            if phone is None or canonical_msisdn(phone.address) != session.address:
                return None
            return Validated(MSISDN, session.address, phone.validated_at)
        if session.validated_ms is None:
            return None
        return Validated(session.medium, session.address, session.validated_ms)

    async def spend(self, sid: str) -> None:
        """Forget a session, so that it proves nothing any more."""
        await self._database.write(threepids.end_session, sid)

    async def forget_old(self) -> None:
        """Forget what has run out."""
        now_ms = self._clock.now_ms()
        await self._database.write(threepids.prune, now_ms, now_ms - SESSION_LIFETIME_MS)

    def made_up_sid(self) -> str:
        """Give the name of a session that there is not, to those who are not to know."""
        return random_letters(TOKEN_CHARS)

    def made_up_proof(self, address: str) -> PhoneProof:
        """Give a proof by telephone that is not under way, to those who are not to know."""
        return self._phone_proof(self.made_up_sid(), address)

    def _phone_proof(self, sid: str, address: str) -> PhoneProof:
        return PhoneProof(sid, address, self.mails.url_of(PHONE_SUBMIT_PATH))

    def _session(self, asked: Asked, medium: str, address: str) -> SessionRecord:
        return SessionRecord(
            sid=random_letters(TOKEN_CHARS),
            purpose=asked.purpose.value,
            client_secret=asked.client_secret,
            medium=medium,
            address=address,
            attempt=0,
            remote_sid=None,
            next_link=asked.next_link,
            created_ms=self._clock.now_ms(),
            validated_ms=None,
        )

    async def _session_of(self, sid: str, client_secret: str) -> SessionRecord | None:
        since_ms = self._clock.now_ms() - SESSION_LIFETIME_MS
        session = await self._database.read(threepids.find_session, sid, since_ms)
        if session is None or session.client_secret != client_secret:
            return None
        return session


async def _begin(
    tx: Tx, wanted: SessionRecord, token_hash: str, now_ms: int, expires_ms: int
) -> SessionRecord:
    session = await threepids.begin(tx, wanted, now_ms - SESSION_LIFETIME_MS)
    await threepids.add_token(tx, token_hash, session.sid, expires_ms)
    return session


async def _begin_remote(
    tx: Tx, wanted: SessionRecord, asked: Asked, remote_sid: str, since_ms: int
) -> SessionRecord:
    session = await threepids.begin(tx, wanted, since_ms)
    await threepids.set_sent(tx, session.sid, asked.attempt, asked.next_link, remote_sid)
    return session


async def _confirm(tx: Tx, sid: str, token_hash: str, now_ms: int) -> bool:
    if not await threepids.token_confirms(tx, token_hash, sid, now_ms):
        return False
    await threepids.set_validated(tx, sid, now_ms)
    return True
