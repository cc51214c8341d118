"""Keys of Synapse that are known and checked but have no effect in this version."""

from typing import Any

from hs.settings.fields import Key
from hs.settings.kinds import (
    BOOLEAN,
    COUNT,
    DURATION,
    INTEGER,
    OBJECT,
    STRING,
    Kind,
    list_of,
    map_of,
    optional,
)

OBJECTS = list_of(OBJECT)
TEXT = optional(STRING)
Row = tuple[str, Kind[Any], Any, str]

_SERVER: tuple[Row, ...] = (
    ("modules", OBJECTS, [], "Third-party modules."),
    ("daemonize", BOOLEAN, False, "Run in the background; use a service manager instead."),
    ("print_pidfile", BOOLEAN, False, "Print the path of the PID file."),
    ("use_frozen_dicts", BOOLEAN, False, "Debugging aid, not needed here."),
    ("web_client_location", TEXT, None, "URL to which `/` redirects."),
    (
        "gc_thresholds",
        optional(list_of(INTEGER)),
        None,
        "Thresholds of Python's garbage collector.",
    ),
    (
        "gc_min_interval",
        list_of(DURATION),
        ["1s", "10s", "30s"],
        "Minimum intervals between garbage collections.",
    ),
    ("manhole", optional(COUNT), None, "Port of an interactive Python shell."),
    ("manhole_settings", OBJECT, {}, "Keys and password of the manhole."),
    (
        "matrix_authentication_service",
        OBJECT,
        {},
        "Delegation of authentication to Matrix Authentication Service.",
    ),
    ("user_types", OBJECT, {}, "Additional user types."),
)
_BLOCKING: tuple[Row, ...] = (
    ("limit_usage_by_mau", BOOLEAN, False, "Limit the number of monthly active users."),
    ("max_mau_value", COUNT, 0, "Maximum number of monthly active users."),
    ("mau_trial_days", COUNT, 0, "Days after which a new user counts as active."),
    (
        "mau_appservice_trial_days",
        map_of(COUNT),
        {},
        "Like `mau_trial_days`, for users of application services, by service ID.",
    ),
    ("mau_limit_alerting", BOOLEAN, True, "Notify administrators when the limit is reached."),
    ("mau_stats_only", BOOLEAN, False, "Count active users without limiting them."),
    (
        "mau_limit_reserved_threepids",
        OBJECTS,
        [],
        "Third-party identifiers of users who are never blocked.",
    ),
    ("server_context", TEXT, None, "Label for statistics."),
)
_MEDIA: tuple[Row, ...] = (
    ("enable_local_media_storage", BOOLEAN, True, "Store media on the local disk."),
)
_REGISTRATION: tuple[Row, ...] = ()
_APIS: tuple[Row, ...] = (
    (
        "track_puppeted_user_ips",
        BOOLEAN,
        False,
        "Record IP addresses of administrators who act as other users.",
    ),
)
_SSO: tuple[Row, ...] = (
    ("saml2_config", OBJECT, {}, "Log-in with SAML 2.0."),
    ("oidc_providers", OBJECTS, [], "Log-in with OpenID Connect."),
    ("cas_config", OBJECT, {}, "Log-in with CAS."),
    ("sso", OBJECT, {}, "Common settings of single sign-on."),
)
_OPERATION: tuple[Row, ...] = (
    ("sentry", OBJECT, {}, "Report errors to Sentry."),
    ("metrics_flags", OBJECT, {}, "Optional expensive metrics."),
    ("report_stats", BOOLEAN, False, "Report usage statistics to Synapse's authors; never done."),
    (
        "report_stats_endpoint",
        STRING,
        "https://matrix.org/report-usage-stats/push",
        "URL for usage statistics; never used.",
    ),
    ("opentracing", OBJECT, {}, "Tracing of requests."),
    ("background_updates", OBJECT, {}, "Speed of background migrations."),
    ("worker_manhole", optional(COUNT), None, "Like `manhole`, for a worker."),
    ("worker_daemonize", BOOLEAN, False, "Like `daemonize`, for a worker."),
)
_SECTIONS = (
    ("Server", _SERVER),
    ("Homeserver blocking", _BLOCKING),
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
