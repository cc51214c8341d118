"""Digests of the settings that all processes of a server must share."""

import hashlib
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

# What the file of a worker may rightly set otherwise than the shared file does.
_OWN_KEYS: Final = frozenset(
    (
        "caches",
        "database",
        "databases",
        "enable_media_repo",
        "enable_metrics",
        "event_cache_size",
        "gc_min_interval",
        "gc_thresholds",
        "listeners",
        "log_config",
        "pid_file",
        "redis",
        "soft_file_limit",
        "tls_certificate_path",
        "tls_private_key_path",
    )
)
_DIGEST_CHARS: Final = 16


def digests_of(values: Mapping[str, Any]) -> Mapping[str, str]:
    """Return a digest of each top-level key, without those that a process may have for itself."""
    return MappingProxyType(
        {
            name: _digest(value)
            for name, value in sorted(values.items())
            if name not in _OWN_KEYS and (not name.startswith("worker_") or name in _SHARED)
        }
    )


def digest_of_all(digests: Mapping[str, str]) -> str:
    """Return one digest of many."""
    return _digest(dict(digests))


_SHARED: Final = frozenset(("worker_replication_secret", "worker_replication_secret_path"))


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARS]
