"""The UIA stages for e-mail addresses, phone numbers, terms and captchas.

Spec: client-server API, Email-based, Phone number/MSISDN-based and reCAPTCHA authentication;
Terms of service at registration.
"""

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.errors import BadJson, MatrixError, MissingParam
from hs.core.threepids import check_client_secret
from hs.services.accounts.sessions.interactive_auth import StageAttempt, UiaProof
from hs.services.accounts.terms.captcha import Recaptcha
from hs.services.accounts.threepids.threepid_validation import ThreepidValidation
from hs.services.accounts.threepids.threepids import ValidatedThreepid
from hs.services.accounts.threepids.validation_emails import ValidationPurpose

EMAIL_IDENTITY = "m.login.email.identity"
MSISDN = "m.login.msisdn"
TERMS = "m.login.terms"
RECAPTCHA = "m.login.recaptcha"
ADDRESS_STAGES = (EMAIL_IDENTITY, MSISDN)
# Third-party identifiers do not authenticate other operations.
_PURPOSES = {"register": ValidationPurpose.REGISTER, "password": ValidationPurpose.RESET}


@attrs.frozen(eq=False)
class ThreepidStage:
    """The stages `m.login.email.identity` and `m.login.msisdn`."""

    _proofs: ThreepidValidation
    _medium: str

    async def check(self, attempt: StageAttempt) -> JsonObject:
        """Accept a validated session and return its identifier.

        Raises: MatrixError with M_UNAUTHORIZED until it is validated; BadJson, MissingParam.
        """
        sid, client_secret = _session_credentials(attempt.auth)
        purpose = _PURPOSES.get(attempt.operation)
        threepid = None
        if purpose is not None:
            threepid = await self._proofs.validated(purpose, sid, client_secret)
        if threepid is None or threepid.medium != self._medium:
            raise MatrixError(
                "M_UNAUTHORIZED", 401, "The third-party identifier has not been validated yet"
            )
        return {**attrs.asdict(threepid), "sid": sid}


@attrs.frozen
class TermsStage:
    """The stage `m.login.terms`: completing it means consent."""

    _version: str

    async def check(self, attempt: StageAttempt) -> JsonObject:
        """Accept and return the version of the terms."""
        return {"version": self._version}


@attrs.frozen(eq=False)
class RecaptchaStage:
    """The stage `m.login.recaptcha`."""

    _captcha: Recaptcha

    async def check(self, attempt: StageAttempt) -> None:
        """Accept a correct response. Raises: MatrixError, MissingParam, BadJson, RemoteFault."""
        response = attempt.auth.get("response")
        if response is None:
            raise MissingParam("Missing response")
        if not isinstance(response, str):
            raise BadJson("'response' must be a string")
        if not await self._captcha.verify(response, attempt.client_ip):
            raise MatrixError("M_UNAUTHORIZED", 401, "The captcha response is incorrect")


def threepids_in(proof: UiaProof) -> list[ValidatedThreepid]:
    """Return the validated identifiers in a proof."""
    return [
        ValidatedThreepid(result["medium"], result["address"], result["validated_ms"])
        for stage in ADDRESS_STAGES
        if (result := proof.results.get(stage)) is not None
    ]


def sessions_in(proof: UiaProof) -> list[str]:
    """Return the IDs of the validation sessions in a proof."""
    return [proof.results[stage]["sid"] for stage in ADDRESS_STAGES if stage in proof.results]


def agreed_version(proof: UiaProof) -> str | None:
    """Return the version of the terms in a proof, or None."""
    result = proof.results.get(TERMS)
    return None if result is None else result["version"]


def _session_credentials(auth: JsonObject) -> tuple[str, str]:
    credentials = auth.get("threepid_creds", auth.get("threepidCreds"))
    if credentials is None:
        raise MissingParam("Missing threepid_creds")
    if not isinstance(credentials, dict):
        raise BadJson("'threepid_creds' must be an object")
    sid, client_secret = credentials.get("sid"), credentials.get("client_secret")
    if sid is None or client_secret is None:
        raise MissingParam("threepid_creds must contain sid and client_secret")
    if not isinstance(sid, str) or not isinstance(client_secret, str) or "\0" in sid:
        raise BadJson("sid and client_secret must be strings")
    check_client_secret(client_secret)
    return sid, client_secret
