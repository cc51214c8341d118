"""A certificate authority for tests, and certificates issued by it for this machine."""

import subprocess
from pathlib import Path

import attrs

_NAMES = ("DNS:localhost", "IP:127.0.0.1")
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")


@attrs.frozen
class Certificates:
    """Files: the authority to trust, and the certificate and key of a server or client."""

    authority: Path
    certificate: Path
    key: Path


def make_certificates(folder: Path, *names: str) -> Certificates:
    """Create an authority, and one certificate for servers and clients on this machine.

    `names` are further names that it is valid for, like `DNS:example.org`.
    """
    authority, authority_key = folder / "authority.pem", folder / "authority.key"
    certificate, key = folder / "certificate.pem", folder / "certificate.key"
    _openssl("req", "-x509", *_KEY, "-subj", "/CN=Authority", "-keyout", authority_key,
             "-out", authority)  # fmt: skip
    _openssl("req", "-x509", *_KEY, "-subj", "/CN=localhost",
             "-addext", f"subjectAltName={','.join([*_NAMES, *names])}",
             "-addext", "basicConstraints=critical,CA:FALSE",
             "-CA", authority, "-CAkey", authority_key,
             "-keyout", key, "-out", certificate)  # fmt: skip
    return Certificates(authority, certificate, key)


def _openssl(*arguments: "str | Path") -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
