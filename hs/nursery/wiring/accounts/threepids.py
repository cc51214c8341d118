"""Third-party identifiers, consent to the terms of use, captchas, and their UIA stages."""

import hashlib
from pathlib import Path

import attrs

from hs.apis.client.accounts.auth_pages import AuthPagesApi
from hs.apis.client.accounts.consent import ConsentApi
from hs.apis.client.accounts.login_page import LoginPageApi
from hs.apis.client.accounts.threepid_pages import ThreepidValidationApi
from hs.apis.client.accounts.threepid_tokens import ThreepidTokensApi
from hs.apis.client.accounts.threepids import ThreepidsApi
from hs.core.signing.keys import SigningKey
from hs.core.threepids import EMAIL
from hs.core.threepids import MSISDN as MSISDN_MEDIUM
from hs.lib.clock import Clock
from hs.lib.mail.templates import Templates
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.accounts.threepid_servers import ThreepidServers
from hs.nursery.wiring.mail import wire_mail, wire_pages
from hs.services.accounts.lifecycle.account_lifecycle import AccountLifecycle
from hs.services.accounts.limits.consent_requirement import ConsentRequirement
from hs.services.accounts.registration.registration_requirements import RegistrationRequirements
from hs.services.accounts.sessions.authenticator import Revocations
from hs.services.accounts.sessions.interactive_auth import InteractiveAuth, UiaStage
from hs.services.accounts.terms.policy_consent import PolicyConsent
from hs.services.accounts.threepids.login_identifiers import LoginIdentifiers
from hs.services.accounts.threepids.threepid_validation import ThreepidValidation
from hs.services.accounts.threepids.threepids import Threepids
from hs.services.accounts.threepids.validation_emails import ValidationEmails
from hs.services.accounts.threepids.validation_requests import ValidationRequests
from hs.services.accounts.threepids.validation_stages import (
    EMAIL_IDENTITY,
    MSISDN,
    RECAPTCHA,
    TERMS,
    RecaptchaStage,
    TermsStage,
    ThreepidStage,
)
from hs.settings.settings import Settings
from hs.storage.database import Database


@attrs.frozen(eq=False, kw_only=True)
class ThreepidServices:
    """Third-party identifiers of accounts, and the stages that validate them."""

    threepids: Threepids
    identifiers: LoginIdentifiers
    proofs: ThreepidValidation
    proof_requests: ValidationRequests
    consent: PolicyConsent
    requirements: RegistrationRequirements
    servers: ThreepidServers
    stages: dict[str, UiaStage]
    pages: Templates
    terms: Templates


def wire_threepids(
    base: ProcessBase, servers: ThreepidServers, revocations: Revocations
) -> ThreepidServices:
    """Build the services; the server's key signs the links to the terms of use."""
    settings, database, clock = base.settings, base.database, base.clock
    threepids = Threepids(database, clock, settings.threepids)
    proofs = _proofs(settings, database, clock, servers)
    rule = consent_rule(settings, base.signer.key)
    return ThreepidServices(
        threepids=threepids,
        identifiers=LoginIdentifiers(settings.server.server_name, threepids),
        proofs=proofs,
        proof_requests=ValidationRequests(
            proofs, threepids, settings.threepids, settings.rate_limits
        ),
        consent=PolicyConsent(database, clock, revocations, rule),
        requirements=RegistrationRequirements(
            registration=settings.registration,
            threepids=settings.threepids,
            consent=rule,
            sends_mail=proofs.sends_mail,
            sends_texts=proofs.sends_texts,
            captcha_key=settings.captcha.recaptcha_public_key,
            blocking=settings.blocking,
        ),
        servers=servers,
        stages=_stages(proofs, rule, servers),
        pages=wire_pages(settings),
        terms=Templates(folders_of(settings.consent.template_dir)),
    )


def threepid_endpoints(
    settings: Settings,
    threepids: ThreepidServices,
    lifecycle: AccountLifecycle,
    interactive: InteractiveAuth,
) -> list[object]:
    """Build the endpoints and pages that validate addresses and ask for consent."""
    server_name, pages = settings.server.server_name, threepids.pages
    return [
        ThreepidTokensApi(threepids.proof_requests),
        ThreepidValidationApi(threepids.proofs, pages),
        ThreepidsApi(
            threepids.threepids,
            threepids.proofs,
            threepids.servers.identity_servers,
            lifecycle,
            interactive,
        ),
        AuthPagesApi(interactive, threepids.requirements, pages, base_url_of(settings)),
        LoginPageApi(pages, server_name),
        ConsentApi(threepids.consent, threepids.terms, pages, server_name),
    ]


def base_url_of(settings: Settings) -> str:
    """Return the URL at which clients reach this server."""
    return settings.server.public_baseurl or f"https://{settings.server.server_name}/"


def folders_of(folder: Path | None) -> list[Path]:
    """Return a list of the folder, or an empty one."""
    return [] if folder is None else [folder]


def consent_rule(settings: Settings, key: SigningKey) -> ConsentRequirement:
    """Build the requirement to consent to the terms of use."""
    configured = settings.secrets.form_secret
    secret = (
        hashlib.sha256(key.sign(b"links to the terms of use").encode()).digest()
        if configured is None
        else configured.encode()
    )
    return ConsentRequirement(settings.consent, base_url_of(settings), secret)


def _proofs(
    settings: Settings, database: Database, clock: Clock, servers: ThreepidServers
) -> ThreepidValidation:
    mail = wire_mail(settings)
    mails = ValidationEmails(
        mailer=mail.mailer,
        templates=mail.templates,
        settings=settings.email,
        server_name=settings.server.server_name,
        base_url=base_url_of(settings),
        is_enabled=mail.is_configured,
    )
    lifetime_ms = settings.email.validation_token_lifetime
    return ThreepidValidation(database, clock, mails, servers.phones, lifetime_ms)


def _stages(
    proofs: ThreepidValidation, rule: ConsentRequirement, servers: ThreepidServers
) -> dict[str, UiaStage]:
    stages: dict[str, UiaStage] = {
        EMAIL_IDENTITY: ThreepidStage(proofs, EMAIL),
        MSISDN: ThreepidStage(proofs, MSISDN_MEDIUM),
    }
    if rule.version is not None:
        stages[TERMS] = TermsStage(rule.version)
    if servers.captcha is not None:
        stages[RECAPTCHA] = RecaptchaStage(servers.captcha)
    return stages
