"""TLS of connections to other servers."""

import ssl
from collections.abc import Sequence
from pathlib import Path

import attrs

from hs.core.globs import Glob, compile_glob
from hs.settings.sections.federation import FederationSettings

MINIMUM_VERSIONS = {"1.3": ssl.TLSVersion.TLSv1_3}


@attrs.frozen(eq=False)
class PeerTls:
    """The TLS contexts; `unverified` matches hosts whose certificates are not verified."""

    verifying: ssl.SSLContext
    trusting: ssl.SSLContext
    _unverified: tuple[Glob, ...]

    def is_verified(self, host: str) -> bool:
        """Return whether the certificate for a host is verified."""
        return not any(glob.matches(host) for glob in self._unverified)

    def context(self, host: str) -> ssl.SSLContext:
        """Return the context for connections whose certificate is for a host."""
        if not self._unverified or self.is_verified(host):
            return self.verifying
        return self.trusting


def peer_tls(settings: FederationSettings) -> PeerTls:
    """Return the TLS contexts by the settings. Raises: OSError (a CA file)."""
    version = settings.federation_client_minimum_tls_version
    trusting = _context(version)
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    patterns = settings.federation_certificate_verification_whitelist
    return PeerTls(
        verifying_context(version, settings.federation_custom_ca_list),
        trusting,
        tuple(map(compile_glob, patterns if settings.federation_verify_certificates else ["*"])),
    )


def verifying_context(version: str, authorities: Sequence[Path]) -> ssl.SSLContext:
    """Return a context that trusts these authorities, or those of the system if there are none.

    Raises: OSError.
    """
    context = _context(version)
    for path in authorities:
        context.load_verify_locations(path)
    if not authorities:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


def _context(version: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = MINIMUM_VERSIONS.get(version, ssl.TLSVersion.TLSv1_2)
    context.set_alpn_protocols(["http/1.1"])
    return context
