"""The keys that are known and checked but have no effect yet."""

from typing import Any

from hs.settings.fields import Key
from hs.settings.kinds import (
    ANYTHING,
    BOOLEAN,
    COUNT,
    DURATION,
    INTEGER,
    NUMBER,
    OBJECT,
    SIZE,
    STRING,
    STRINGS,
    Kind,
    either,
    list_of,
    map_of,
    optional,
)

OBJECTS = list_of(OBJECT)
TEXT = optional(STRING)
Row = tuple[str, Kind[Any], Any, str]

_SERVER: tuple[Row, ...] = (
    ("modules", OBJECTS, [], "Third-party modules to load."),
    ("daemonize", BOOLEAN, False, "Go to the background; a service manager does it better."),
    ("print_pidfile", BOOLEAN, False, "Print the path of the pid file."),
    ("use_frozen_dicts", BOOLEAN, False, "A debugging aid that is not needed here."),
    ("web_client_location", TEXT, None, "Where `/` redirects to."),
    ("allow_public_rooms_over_federation", BOOLEAN, False, "Show the directory to other servers."),
    ("gc_thresholds", optional(list_of(INTEGER)), None, "Thresholds of Python's collector."),
    ("gc_min_interval", list_of(DURATION), ["1s", "10s", "30s"], "Least time between collections."),
    ("manhole", optional(COUNT), None, "Port of a Python shell."),
    ("manhole_settings", OBJECT, {}, "Keys and password of that shell."),
    ("matrix_authentication_service", OBJECT, {}, "Delegation of log-in to another service."),
    ("dummy_events_threshold", COUNT, 10, "Forward extremities before a dummy event is sent."),
    ("user_types", OBJECT, {}, "Further kinds of user."),
)
_BLOCKING: tuple[Row, ...] = (
    ("limit_usage_by_mau", BOOLEAN, False, "Limit monthly active users."),
    ("max_mau_value", COUNT, 0, "How many monthly active users."),
    ("mau_trial_days", COUNT, 0, "Days before a new user counts."),
    ("mau_appservice_trial_days", map_of(COUNT), {}, "The same, per application service."),
    ("mau_limit_alerting", BOOLEAN, True, "Tell administrators of the limit."),
    ("mau_stats_only", BOOLEAN, False, "Count without limiting."),
    ("mau_limit_reserved_threepids", OBJECTS, [], "Addresses that are never blocked."),
    ("server_context", TEXT, None, "A label for statistics."),
    ("limit_remote_rooms", OBJECT, {}, "Refuse to join rooms that are too complex."),
)
_FEDERATION: tuple[Row, ...] = (
    ("federation_verify_certificates", BOOLEAN, True, "Check other servers' certificates."),
    (
        "federation_client_minimum_tls_version",
        either(STRING, NUMBER),
        "1",
        "Least version of TLS towards other servers.",
    ),
    ("federation_certificate_verification_whitelist", STRINGS, [], "Servers never checked."),
    ("federation_custom_ca_list", STRINGS, [], "Certificate authorities of one's own."),
    ("federation_domain_whitelist", optional(STRINGS), None, "The only servers talked to."),
    ("federation_whitelist_endpoint_enabled", BOOLEAN, False, "Tell clients that list."),
    ("federation_metrics_domains", STRINGS, [], "Servers with metrics of their own."),
    ("allow_profile_lookup_over_federation", BOOLEAN, True, "Show profiles to other servers."),
    ("allow_device_name_lookup_over_federation", BOOLEAN, False, "Show names of devices."),
    ("federation", OBJECT, {}, "Timeouts and retries towards other servers."),
    ("federation_rr_transactions_per_room_per_second", COUNT, 50, "Read receipts sent."),
)
_MEDIA: tuple[Row, ...] = (
    ("enable_local_media_storage", BOOLEAN, True, "Keep media on the local disk."),
    ("remote_media_download_burst_count", SIZE, "500MiB", "Remote media in one burst."),
    ("remote_media_download_per_second", SIZE, "87KiB", "Remote media per second."),
)
_REGISTRATION: tuple[Row, ...] = ()
_APIS: tuple[Row, ...] = (
    ("track_puppeted_user_ips", BOOLEAN, False, "Record addresses behind impersonation."),
    ("key_refresh_interval", DURATION, "1d", "How long published keys are valid."),
    ("trusted_key_servers", list_of(ANYTHING), [{"server_name": "matrix.org"}], "Notaries."),
    ("suppress_key_server_warning", BOOLEAN, False, "No warning about matrix.org as notary."),
    ("key_server_signing_keys_path", TEXT, None, "Further keys to sign as a notary."),
)
_SSO: tuple[Row, ...] = (
    ("saml2_config", OBJECT, {}, "Log in with SAML."),
    ("oidc_providers", OBJECTS, [], "Log in with OpenID Connect."),
    ("cas_config", OBJECT, {}, "Log in with CAS."),
    ("sso", OBJECT, {}, "Common settings of single sign-on."),
)
_OPERATION: tuple[Row, ...] = (
    ("sentry", OBJECT, {}, "Report errors to Sentry."),
    ("metrics_flags", OBJECT, {}, "Costly metrics."),
    ("report_stats", BOOLEAN, False, "Report usage to the authors of another server; never done."),
    (
        "report_stats_endpoint",
        STRING,
        "https://matrix.org/report-usage-stats/push",
        "Where that report would go.",
    ),
    ("opentracing", OBJECT, {}, "Traces of requests."),
    ("databases", OBJECT, {}, "Several databases for one server."),
    ("background_updates", OBJECT, {}, "Pace of migrations in the background."),
    ("outbound_federation_restricted_to", STRINGS, [], "Workers with access to the outside."),
    ("worker_manhole", optional(COUNT), None, "As `manhole`, for a worker."),
    ("worker_daemonize", BOOLEAN, False, "As `daemonize`, for a worker."),
)
_SECTIONS = (
    ("Server", _SERVER),
    ("Homeserver blocking", _BLOCKING),
    ("Federation", _FEDERATION),
    ("Media store", _MEDIA),
    ("Registration", _REGISTRATION),
    ("API configuration", _APIS),
    ("Single sign-on integration", _SSO),
    ("Operation", _OPERATION),
)

PLANNED_KEYS = tuple(
    Key(name=name, kind=kind, default=default, doc=doc, section=section, is_effective=False)
    for section, rows in _SECTIONS
    for name, kind, default, doc in rows
)
