"""The stages that prove an address, agree to the terms, or solve a puzzle.

Spec: client-server API, Email-based, Phone number/MSISDN-based and reCAPTCHA authentication;
Terms of service at registration.
"""

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.errors import BadJson, MatrixError, MissingParam
from hs.core.threepids import check_client_secret
from hs.services.accounts.sessions.interactive_auth import Attempt, Proof
from hs.services.accounts.terms.captcha import Captcha
from hs.services.accounts.threepids.threepid_validation import AddressProofs
from hs.services.accounts.threepids.threepids import Validated
from hs.services.accounts.threepids.validation_emails import Purpose

EMAIL_IDENTITY = "m.login.email.identity"
MSISDN = "m.login.msisdn"
TERMS = "m.login.terms"
RECAPTCHA = "m.login.recaptcha"
ADDRESS_STAGES = (EMAIL_IDENTITY, MSISDN)
# Of other operations no address is a proof.
_PURPOSES = {"register": Purpose.REGISTER, "password": Purpose.RESET}


@attrs.frozen(eq=False)
class AddressStage:
    """Proves that somebody holds an address."""

    _proofs: AddressProofs
    _medium: str

    async def check(self, attempt: Attempt) -> JsonObject:
        """Accept a validated session, and give its address.

        Raises: MatrixError with M_UNAUTHORIZED, while it is not validated; BadJson, MissingParam.
        """
        sid, client_secret = _credentials(attempt.auth)
        purpose = _PURPOSES.get(attempt.operation)
        found = None
        if purpose is not None:
            found = await self._proofs.validated(purpose, sid, client_secret)
        if found is None or found.medium != self._medium:
            raise MatrixError("M_UNAUTHORIZED", 401, "The address has not been confirmed yet")
        return {**attrs.asdict(found), "sid": sid}


@attrs.frozen
class TermsStage:
    """Takes the client's word that somebody has agreed to the terms."""

    _version: str

    async def check(self, attempt: Attempt) -> JsonObject:
        """Accept, and give the version agreed to."""
        return {"version": self._version}


@attrs.frozen(eq=False)
class RecaptchaStage:
    """Proves that somebody has solved a puzzle."""

    _captcha: Captcha

    async def check(self, attempt: Attempt) -> None:
        """Accept a right answer. Raises: MatrixError, MissingParam, BadJson, RemoteFault."""
        response = attempt.auth.get("response")
        if response is None:
            raise MissingParam("Missing response")
        if not isinstance(response, str):
            raise BadJson("'response' must be a string")
        if not await self._captcha.verify(response, attempt.client_ip):
            raise MatrixError("M_UNAUTHORIZED", 401, "The captcha was not solved")


def addresses_in(proof: Proof) -> list[Validated]:
    """Give the addresses that stages have proved."""
    return [
        Validated(told["medium"], told["address"], told["validated_ms"])
        for stage in ADDRESS_STAGES
        if (told := proof.told.get(stage)) is not None
    ]


def sessions_in(proof: Proof) -> list[str]:
    """Give the validations that stages have used."""
    return [proof.told[stage]["sid"] for stage in ADDRESS_STAGES if stage in proof.told]


def agreed_version(proof: Proof) -> str | None:
    """Give the version of the terms that was agreed to."""
    told = proof.told.get(TERMS)
    return None if told is None else told["version"]


def _credentials(auth: JsonObject) -> tuple[str, str]:
    given = auth.get("threepid_creds", auth.get("threepidCreds"))
    if given is None:
        raise MissingParam("Missing threepid_creds")
    if not isinstance(given, dict):
        raise BadJson("'threepid_creds' must be an object")
    sid, client_secret = given.get("sid"), given.get("client_secret")
    if sid is None or client_secret is None:
        raise MissingParam("threepid_creds needs sid and client_secret")
    if not isinstance(sid, str) or not isinstance(client_secret, str) or "\0" in sid:
        raise BadJson("sid and client_secret must be strings")
    check_client_secret(client_secret)
    return sid, client_secret
