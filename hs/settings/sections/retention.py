"""Settings of message retention, server notices, automatic joins, and blocking the server."""

import attrs

from hs.settings.fields import block, setting
from hs.settings.kinds import (
    BOOLEAN,
    DURATION,
    STRING,
    ConfigLocation,
    Kind,
    list_of,
    optional,
)

MAYBE = optional(DURATION)
DAY_MS = 86_400_000


@attrs.frozen(kw_only=True)
class RetentionPolicy:
    """The retention policy of rooms that have none of their own."""

    min_lifetime: int | None = setting(
        MAYBE, None, "Minimum lifetime of messages, for information of clients only."
    )
    max_lifetime: int | None = setting(
        MAYBE, None, "Maximum lifetime of messages; older ones are hidden and deleted."
    )


@attrs.frozen(kw_only=True)
class PurgeJob:
    """A job that purges the rooms whose maximum lifetime is in a range, `(shortest, longest]`."""

    interval: int = setting(DURATION, DAY_MS, "Interval between runs.", shown="1d")
    shortest_max_lifetime: int | None = setting(
        MAYBE, None, "Purge only rooms with a longer maximum lifetime than this; all if null."
    )
    longest_max_lifetime: int | None = setting(
        MAYBE, None, "Purge only rooms with a maximum lifetime of at most this; all if null."
    )


def _read_jobs(value: object, at: ConfigLocation) -> tuple[PurgeJob, ...]:
    jobs = list_of(block(PurgeJob)).read(value, at)
    for job in jobs:
        if job.interval <= 0:
            at.reject("the interval of a purge job must not be 0", 'write an interval like "12h"')
        shortest, longest = job.shortest_max_lifetime, job.longest_max_lifetime
        if shortest is not None and longest is not None and shortest > longest:
            at.reject(
                "the shortest_max_lifetime of a purge job exceeds its longest_max_lifetime",
                "swap the two values",
            )
    return jobs


JOBS: Kind[tuple[PurgeJob, ...]] = Kind(
    "list of object", _read_jobs, {"type": "array", "items": block(PurgeJob).schema}
)


@attrs.frozen(kw_only=True)
class RetentionSettings:
    """Message retention."""

    enabled: bool = setting(BOOLEAN, False, "Hide and delete old messages.")
    default_policy: RetentionPolicy = setting(
        block(RetentionPolicy),
        RetentionPolicy(),
        "Policy of rooms that have none of their own.",
        shown={},
    )
    allowed_lifetime_min: int | None = setting(
        MAYBE,
        None,
        "Lower bound of the lifetimes that rooms may set; shorter ones are raised to it.",
    )
    allowed_lifetime_max: int | None = setting(
        MAYBE,
        None,
        "Upper bound of the lifetimes that rooms may set; longer ones are lowered to it.",
    )
    purge_jobs: tuple[PurgeJob, ...] = setting(
        JOBS,
        (),
        "Jobs that delete old messages; without, all rooms are purged once a day.",
        shown=[],
    )


def _read_retention(value: object, at: ConfigLocation) -> RetentionSettings:
    settings = block(RetentionSettings).read(value, at)
    lower_ms, upper_ms = settings.allowed_lifetime_min, settings.allowed_lifetime_max
    if lower_ms is not None and upper_ms is not None and lower_ms > upper_ms:
        at.child("allowed_lifetime_min").reject(
            "exceeds allowed_lifetime_max", "swap the two values, or remove one"
        )
    policy = settings.default_policy
    if (
        policy.min_lifetime is not None
        and policy.max_lifetime is not None
        and policy.min_lifetime > policy.max_lifetime
    ):
        at.child("default_policy").reject(
            "its min_lifetime exceeds its max_lifetime", "swap the two values, or remove one"
        )
    return settings


RETENTION: Kind[RetentionSettings] = Kind(
    "object", _read_retention, block(RetentionSettings).schema
)


@attrs.frozen(kw_only=True)
class ServerNoticeSettings:
    """The user who sends server notices; None as local part disables them."""

    system_mxid_localpart: str | None = setting(
        optional(STRING),
        None,
        "Local part of the user who sends notices; notices are disabled if missing.",
    )
    system_mxid_display_name: str | None = setting(
        optional(STRING), "Notices", "Display name of that user."
    )
    system_mxid_avatar_url: str | None = setting(
        optional(STRING), None, "Avatar of that user, an mxc:// URI."
    )
    room_name: str | None = setting(
        optional(STRING), "Server Notices", "Name of the rooms in which notices are sent."
    )
    room_avatar_url: str | None = setting(optional(STRING), None, "Avatar of these rooms.")
    room_topic: str | None = setting(optional(STRING), None, "Topic of these rooms.")
    auto_join: bool = setting(BOOLEAN, False, "Join users instead of inviting them.")


@attrs.frozen(kw_only=True)
class AutoAcceptSettings:
    """Automatic acceptance of invites."""

    enabled: bool = setting(BOOLEAN, False, "Accept invites of local users automatically.")
    only_for_direct_messages: bool = setting(BOOLEAN, False, "Accept only invites to direct chats.")
    only_from_local_users: bool = setting(BOOLEAN, False, "Accept only invites from local users.")
    worker_to_run_on: str | None = setting(
        optional(STRING),
        None,
        "Process that accepts invites; the one that runs background tasks if missing.",
    )


@attrs.frozen(kw_only=True)
class StatsSettings:
    """Statistics of rooms and users."""

    enabled: bool = setting(
        BOOLEAN,
        True,
        "Accepted and not needed: room lists always have current member counts.",
    )


@attrs.frozen(kw_only=True)
class BlockingSettings:
    """Blocking of the whole server."""

    admin_contact: str | None = setting(
        optional(STRING), None, "Contact of the administrator, sent to blocked users."
    )
    hs_disabled: bool = setting(
        BOOLEAN,
        False,
        "Admit administrators only: reject log-ins, registrations and requests of all others.",
    )
    hs_disabled_message: str = setting(
        STRING,
        "Homeserver is currently blocked",
        "Error message sent to users while `hs_disabled` is true.",
    )


def _read_types(value: object, at: ConfigLocation) -> tuple[tuple[str, str | None], ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        at.reject("expected a list of event types", "begin each entry with `- `")
    types: list[tuple[str, str | None]] = []
    for number, entry in enumerate(value):
        match entry:
            case str():
                types.append((entry, None))
            case [str(event_type), str(state_key)]:
                types.append((event_type, state_key))
            case _:
                at.child(str(number)).reject(
                    f"{entry!r:.60} is neither an event type nor a pair of type and state key",
                    "write `- m.room.example` or `- [m.room.example, state_key]`",
                )
    return tuple(types)


EVENT_TYPES: Kind[tuple[tuple[str, str | None], ...]] = Kind(
    "list of event types, or of pairs of type and state key", _read_types, {"type": "array"}
)


@attrs.frozen(kw_only=True)
class PrejoinSettings:
    """The state of a room that invited and knocking users receive."""

    disable_default_event_types: bool = setting(
        BOOLEAN, False, "Send only the `additional_event_types`."
    )
    additional_event_types: tuple[tuple[str, str | None], ...] = setting(
        EVENT_TYPES,
        (),
        "Event types sent in addition; a type alone means all its state keys.",
        shown=[],
    )
