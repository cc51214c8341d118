"""How long things are kept, whom the server joins and notifies by itself, and blocking it."""

import attrs

from hs.settings.fields import block, setting
from hs.settings.kinds import (
    BOOLEAN,
    DURATION,
    STRING,
    At,
    Kind,
    list_of,
    optional,
)

MAYBE = optional(DURATION)
DAY_MS = 86_400_000


@attrs.frozen(kw_only=True)
class Lifetimes:
    """How long messages live in rooms that do not say."""

    min_lifetime: int | None = setting(MAYBE, None, "Told to clients; nothing is purged by it.")
    max_lifetime: int | None = setting(MAYBE, None, "Older messages are hidden and purged.")


@attrs.frozen(kw_only=True)
class PurgeJob:
    """A job that purges rooms whose messages live so long: longer than the shortest, up to the
    longest."""

    interval: int = setting(DURATION, DAY_MS, "How often it runs.", shown="1d")
    shortest_max_lifetime: int | None = setting(MAYBE, None, "No limit when null.")
    longest_max_lifetime: int | None = setting(MAYBE, None, "No limit when null.")


def _read_jobs(value: object, at: At) -> tuple[PurgeJob, ...]:
    jobs = list_of(block(PurgeJob)).read(value, at)
    for job in jobs:
        if job.interval <= 0:
            at.refuse("the interval of a purge job is 0", 'write how often it runs, as "12h"')
        shortest, longest = job.shortest_max_lifetime, job.longest_max_lifetime
        if shortest is not None and longest is not None and shortest > longest:
            at.refuse(
                "the shortest_max_lifetime of a purge job is above its longest_max_lifetime",
                "exchange them",
            )
    return jobs


JOBS: Kind[tuple[PurgeJob, ...]] = Kind(
    "list of object", _read_jobs, {"type": "array", "items": block(PurgeJob).schema}
)


@attrs.frozen(kw_only=True)
class RetentionSettings:
    """Which messages are old enough to go."""

    enabled: bool = setting(BOOLEAN, False, "Hide and purge old messages.")
    default_policy: Lifetimes = setting(
        block(Lifetimes), Lifetimes(), "For rooms that have no policy of their own.", shown={}
    )
    allowed_lifetime_min: int | None = setting(
        MAYBE, None, "Rooms that want less are treated as if they wanted this."
    )
    allowed_lifetime_max: int | None = setting(
        MAYBE, None, "Rooms that want more are treated as if they wanted this."
    )
    purge_jobs: tuple[PurgeJob, ...] = setting(
        JOBS, (), "When which rooms are purged; all of them once a day when missing.", shown=[]
    )


def _read_retention(value: object, at: At) -> RetentionSettings:
    settings = block(RetentionSettings).read(value, at)
    least, most = settings.allowed_lifetime_min, settings.allowed_lifetime_max
    if least is not None and most is not None and least > most:
        at.child("allowed_lifetime_min").refuse(
            "above allowed_lifetime_max", "exchange them, or remove one"
        )
    policy = settings.default_policy
    if (
        policy.min_lifetime is not None
        and policy.max_lifetime is not None
        and policy.min_lifetime > policy.max_lifetime
    ):
        at.child("default_policy").refuse(
            "its min_lifetime is above its max_lifetime", "exchange them, or remove one"
        )
    return settings


RETENTION: Kind[RetentionSettings] = Kind(
    "object", _read_retention, block(RetentionSettings).schema
)


@attrs.frozen(kw_only=True)
class NoticeSettings:
    """The user who tells others what the server has to say. Off without a name for it."""

    system_mxid_localpart: str | None = setting(
        optional(STRING), None, "Local part of the user who sends notices; off when missing."
    )
    system_mxid_display_name: str | None = setting(
        optional(STRING), "Notices", "Display name of that user."
    )
    system_mxid_avatar_url: str | None = setting(
        optional(STRING), None, "Avatar of that user, an mxc:// address."
    )
    room_name: str | None = setting(
        optional(STRING), "Server Notices", "Name of the rooms that notices are in."
    )
    room_avatar_url: str | None = setting(optional(STRING), None, "Avatar of those rooms.")
    room_topic: str | None = setting(optional(STRING), None, "Topic of those rooms.")
    auto_join: bool = setting(BOOLEAN, False, "Join users instead of inviting them.")


@attrs.frozen(kw_only=True)
class AutoAcceptSettings:
    """Joining users to rooms that they are invited to."""

    enabled: bool = setting(BOOLEAN, False, "Accept invites for users.")
    only_for_direct_messages: bool = setting(BOOLEAN, False, "Only to direct chats.")
    only_from_local_users: bool = setting(BOOLEAN, False, "Only of users of this server.")
    worker_to_run_on: str | None = setting(
        optional(STRING), None, "Process that does it; the one with background tasks when missing."
    )


@attrs.frozen(kw_only=True)
class StatsSettings:
    """Counting rooms' and users' numbers."""

    enabled: bool = setting(
        BOOLEAN,
        True,
        "Accepted and not needed: lists of rooms count members as they come and go.",
    )


@attrs.frozen(kw_only=True)
class BlockingSettings:
    """Blocking the whole server."""

    admin_contact: str | None = setting(
        optional(STRING), None, "How to reach the administrator, told to blocked users."
    )
    hs_disabled: bool = setting(BOOLEAN, False, "Refuse to log users in, and all they send.")
    hs_disabled_message: str = setting(
        STRING, "Homeserver is currently blocked", "What users are told then."
    )


def _read_types(value: object, at: At) -> tuple[tuple[str, str | None], ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        at.refuse("expected a list of event types", "start each entry with `- `")
    found: list[tuple[str, str | None]] = []
    for number, entry in enumerate(value):
        match entry:
            case str():
                found.append((entry, None))
            case [str(event_type), str(state_key)]:
                found.append((event_type, state_key))
            case _:
                at.child(str(number)).refuse(
                    f"{entry!r:.60} is neither a type nor a pair of type and state key",
                    "write `- m.room.example` or `- [m.room.example, state_key]`",
                )
    return tuple(found)


EVENT_TYPES: Kind[tuple[tuple[str, str | None], ...]] = Kind(
    "list of event types, or of pairs of type and state key", _read_types, {"type": "array"}
)


@attrs.frozen(kw_only=True)
class PrejoinSettings:
    """What is told of a room to who is invited or knocks."""

    disable_default_event_types: bool = setting(BOOLEAN, False, "Tell only what is listed here.")
    additional_event_types: tuple[tuple[str, str | None], ...] = setting(
        EVENT_TYPES, (), "Told as well; a type alone means all its state keys.", shown=[]
    )
