"""What users prove besides passwords: addresses, consent to the terms, that they are people."""

import hashlib
from pathlib import Path

import attrs

from hs.core.signing.keys import SigningKey
from hs.core.threepids import EMAIL
from hs.core.threepids import MSISDN as MSISDN_MEDIUM
from hs.lib.clock import Clock
from hs.lib.mail.templates import Templates
from hs.nursery.wiring.identity_servers import AddressServers
from hs.nursery.wiring.mail import wire_mail, wire_pages
from hs.services.accounts.limits.consent_requirement import ConsentRule
from hs.services.accounts.registration.registration_requirements import Requirements
from hs.services.accounts.sessions.authenticator import Revocations
from hs.services.accounts.sessions.interactive_auth import Stage
from hs.services.accounts.terms.policy_consent import Consent
from hs.services.accounts.threepids.login_identifiers import Identifiers
from hs.services.accounts.threepids.threepid_validation import AddressProofs
from hs.services.accounts.threepids.threepids import Threepids
from hs.services.accounts.threepids.validation_emails import ProofMails
from hs.services.accounts.threepids.validation_requests import ProofRequests
from hs.services.accounts.threepids.validation_stages import (
    EMAIL_IDENTITY,
    MSISDN,
    RECAPTCHA,
    TERMS,
    AddressStage,
    RecaptchaStage,
    TermsStage,
)
from hs.settings.settings import Settings
from hs.storage.database import Database


@attrs.frozen(eq=False, kw_only=True)
class Proving:
    """The pieces."""

    threepids: Threepids
    identifiers: Identifiers
    proofs: AddressProofs
    proof_requests: ProofRequests
    consent: Consent
    requirements: Requirements
    servers: AddressServers
    stages: dict[str, Stage]
    pages: Templates
    terms: Templates


def wire_proving(
    settings: Settings,
    database: Database,
    clock: Clock,
    key: SigningKey,
    servers: AddressServers,
    revocations: Revocations,
) -> Proving:
    """Build the pieces."""
    threepids = Threepids(database, clock, settings.threepids)
    proofs = _proofs(settings, database, clock, servers)
    rule = consent_rule(settings, key)
    return Proving(
        threepids=threepids,
        identifiers=Identifiers(settings.server.server_name, threepids),
        proofs=proofs,
        proof_requests=ProofRequests(proofs, threepids, settings.threepids, settings.rate_limits),
        consent=Consent(database, clock, revocations, rule),
        requirements=Requirements(
            registration=settings.registration,
            threepids=settings.threepids,
            consent=rule,
            sends_mail=proofs.sends_mail,
            sends_texts=proofs.sends_texts,
            captcha_key=settings.captcha.recaptcha_public_key,
        ),
        servers=servers,
        stages=_stages(proofs, rule, servers),
        pages=wire_pages(settings),
        terms=Templates(folders_of(settings.consent.template_dir)),
    )


def base_url_of(settings: Settings) -> str:
    """Give where clients reach this server."""
    return settings.server.public_baseurl or f"https://{settings.server.server_name}/"


def folders_of(folder: Path | None) -> list[Path]:
    """Give a folder of templates, if there is one."""
    return [] if folder is None else [folder]


def consent_rule(settings: Settings, key: SigningKey) -> ConsentRule:
    """Build what is asked of users."""
    given = settings.secrets.form_secret
    secret = (
        hashlib.sha256(key.sign(b"links to the terms of use").encode()).digest()
        if given is None
        else given.encode()
    )
    return ConsentRule(settings.consent, base_url_of(settings), secret)


def _proofs(
    settings: Settings, database: Database, clock: Clock, servers: AddressServers
) -> AddressProofs:
    room = wire_mail(settings)
    mails = ProofMails(
        room.mailer,
        room.templates,
        settings.email,
        settings.server.server_name,
        base_url_of(settings),
        room.is_open,
    )
    lifetime_ms = settings.email.validation_token_lifetime
    return AddressProofs(database, clock, mails, servers.phones, lifetime_ms)


def _stages(proofs: AddressProofs, rule: ConsentRule, servers: AddressServers) -> dict[str, Stage]:
    stages: dict[str, Stage] = {
        EMAIL_IDENTITY: AddressStage(proofs, EMAIL),
        MSISDN: AddressStage(proofs, MSISDN_MEDIUM),
    }
    if rule.version is not None:
        stages[TERMS] = TermsStage(rule.version)
    if servers.captcha is not None:
        stages[RECAPTCHA] = RecaptchaStage(servers.captcha)
    return stages
