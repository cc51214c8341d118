"""Settings of what goes beyond the released specification."""

from collections.abc import Mapping
from typing import Any, Final

import attrs

from hs.settings.fields import setting
from hs.settings.kinds import BOOLEAN, DURATION, OBJECT, STRING, At, Kind, list_of, optional

THREAD_SUBSCRIPTIONS: Final = "msc4306_enabled"
ENCRYPTED_PUSHES: Final = "msc4028_push_encrypted_events"


@attrs.frozen(kw_only=True)
class Experiments:
    """Which experiments are on; each changes what clients see without asking for it."""

    thread_subscriptions: bool = False
    encrypted_pushes: bool = False


@attrs.frozen(kw_only=True)
class RtcSettings:
    """Where calls of many may run; each transport is an object with a `type`."""

    transports: tuple[Mapping[str, Any], ...] = ()


def _read_experiments(value: Any, at: At) -> Experiments:
    given = OBJECT.read(value, at)
    for flag in given:
        if flag not in (THREAD_SUBSCRIPTIONS, ENCRYPTED_PUSHES):
            at.child(str(flag)).note("ignored: this server has no such experiment")

    def is_on(flag: str) -> bool:
        return bool(BOOLEAN.read(given.get(flag, False), at.child(flag)))

    return Experiments(
        thread_subscriptions=is_on(THREAD_SUBSCRIPTIONS), encrypted_pushes=is_on(ENCRYPTED_PUSHES)
    )


def _read_rtc(value: Any, at: At) -> RtcSettings:
    given = OBJECT.read(value, at)
    for name in given:
        if name != "transports":
            at.child(str(name)).warn("unknown key, ignored", is_unknown_key=True)
    here = at.child("transports")
    transports = list_of(OBJECT).read(given.get("transports"), here)
    for number, transport in enumerate(transports):
        STRING.read(transport.get("type"), here.child(str(number)).child("type"))
    return RtcSettings(transports=transports)


def _read_delay(value: Any, at: At) -> int:
    delay_ms = DURATION.read(value, at)
    if delay_ms == 0:
        at.refuse("no event can be delayed by nothing", "leave the key out to delay none")
    return delay_ms


DELAY: Final = Kind("duration", _read_delay, DURATION.schema)
EXPERIMENTS: Final = Kind("object", _read_experiments, OBJECT.schema)
RTC: Final = Kind("object", _read_rtc, OBJECT.schema)


@attrs.frozen(kw_only=True)
class ProposalSettings:
    """Proposals that an administrator switches on; the others are always served."""

    max_event_delay_duration: int | None = setting(
        optional(DELAY), None, "Longest delay of a delayed event; without it none is delayed."
    )
    matrix_rtc: RtcSettings = setting(
        RTC,
        RtcSettings(),
        "`transports` of calls of many, told to clients: objects with a `type`.",
        shown={"transports": []},
    )
    experimental_features: Experiments = setting(
        EXPERIMENTS,
        Experiments(),
        "`msc4306_enabled` turns thread subscriptions on; other experiments are ignored.",
        shown={THREAD_SUBSCRIPTIONS: False},
    )
