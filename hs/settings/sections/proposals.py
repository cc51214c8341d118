"""Settings of Matrix proposals (MSCs) that are not part of the released specification."""

import re
from collections.abc import Mapping
from typing import Any, Final

import attrs

from hs.settings.fields import setting
from hs.settings.kinds import (
    BOOLEAN,
    DURATION,
    OBJECT,
    STRING,
    ConfigLocation,
    Kind,
    list_of,
    optional,
)

THREAD_SUBSCRIPTIONS: Final = "msc4306_enabled"
ENCRYPTED_PUSHES: Final = "msc4028_push_encrypted_events"
APPSERVICE_KEY_CLAIMS: Final = "msc3983_appservice_otk_claims"
APPSERVICE_KEY_QUERIES: Final = "msc3984_appservice_key_query"
FLAGS: Final = (
    THREAD_SUBSCRIPTIONS,
    ENCRYPTED_PUSHES,
    APPSERVICE_KEY_CLAIMS,
    APPSERVICE_KEY_QUERIES,
)

# Numbers of the proposals that are experiments in Synapse and always enabled here.
ALWAYS_SERVED: Final = frozenset(
    (
        "2409", "2666", "3202", "3266", "3391", "3575", "3771", "3773", "3814", "3881", "3912",
        "3981", "4133", "4151", "4155", "4169", "4222", "4262", "4293", "4323", "4380", "4429",
    )
)  # fmt: skip
_DELAYED_EVENTS: Final = "4140"
_NUMBER = re.compile(r"msc(\d+)")


@attrs.frozen(kw_only=True)
class Experiments:
    """Experiments that change what clients and services see without their asking for it."""

    thread_subscriptions: bool = False
    encrypted_pushes: bool = False
    appservice_key_claims: bool = False
    appservice_key_queries: bool = False


@attrs.frozen(kw_only=True)
class RtcSettings:
    """MatrixRTC transports for group calls; each is an object with a `type`."""

    transports: tuple[Mapping[str, Any], ...] = ()


def _read_experiments(value: Any, at: ConfigLocation) -> Experiments:
    value_map = OBJECT.read(value, at)
    for flag, wanted in value_map.items():
        if flag in FLAGS:
            continue
        number = _NUMBER.match(flag)
        if isinstance(wanted, Mapping):
            wanted = wanted.get("enabled", True)
        if number is not None and number[1] == _DELAYED_EVENTS:
            at.child(flag).note("ignored: max_event_delay_duration enables delayed events")
            continue
        is_served = number is not None and number[1] in ALWAYS_SERVED
        if wanted and not is_served:
            at.child(flag).note("ignored: this server does not have this experiment")
        elif not wanted and is_served:
            at.child(flag).note("ignored: this server always has this proposal")

    def is_on(flag: str) -> bool:
        return bool(BOOLEAN.read(value_map.get(flag, False), at.child(flag)))

    return Experiments(
        thread_subscriptions=is_on(THREAD_SUBSCRIPTIONS),
        encrypted_pushes=is_on(ENCRYPTED_PUSHES),
        appservice_key_claims=is_on(APPSERVICE_KEY_CLAIMS),
        appservice_key_queries=is_on(APPSERVICE_KEY_QUERIES),
    )


def _read_rtc(value: Any, at: ConfigLocation) -> RtcSettings:
    value_map = OBJECT.read(value, at)
    for name in value_map:
        if name != "transports":
            at.child(str(name)).warn("unknown key, ignored", is_unknown_key=True)
    transports_at = at.child("transports")
    transports = list_of(OBJECT).read(value_map.get("transports"), transports_at)
    for number, transport in enumerate(transports):
        STRING.read(transport.get("type"), transports_at.child(str(number)).child("type"))
    return RtcSettings(transports=transports)


def _read_delay(value: Any, at: ConfigLocation) -> int:
    delay_ms = DURATION.read(value, at)
    if delay_ms == 0:
        at.reject("must not be 0", "remove the key to disable delayed events")
    return delay_ms


DELAY: Final = Kind("duration", _read_delay, DURATION.schema)
EXPERIMENTS: Final = Kind("object", _read_experiments, OBJECT.schema)
RTC: Final = Kind("object", _read_rtc, OBJECT.schema)


@attrs.frozen(kw_only=True)
class ProposalSettings:
    """Proposals that an administrator enables; all others are always enabled."""

    max_event_delay_duration: int | None = setting(
        optional(DELAY),
        None,
        "Maximum delay of delayed events (MSC4140); delayed events are disabled if null.",
    )
    matrix_rtc: RtcSettings = setting(
        RTC,
        RtcSettings(),
        "`transports` for group calls (MSC4143), sent to clients: a list of objects with a `type`.",
        shown={"transports": []},
    )
    experimental_features: Experiments = setting(
        EXPERIMENTS,
        Experiments(),
        "`msc4306_enabled` enables thread subscriptions, `msc4028_push_encrypted_events` pushes "
        "for encrypted events, `msc3983_appservice_otk_claims` and `msc3984_appservice_key_query` "
        "ask application services for keys; other flags are ignored, with a note if they ask for "
        "something else than what this server does.",
        shown={THREAD_SUBSCRIPTIONS: False},
    )
