"""A roll call: asks all processes over Redis to announce themselves, as one that is not of them."""

import secrets
import time
from collections.abc import Set

import trio

from hs.repl.envelope import Envelopes, InvalidEnvelope
from hs.repl.message import Message, MessageKind, encode_message
from hs.repl.redis import channel_name, client_name
from hs.repl.redis_cluster import read_envelope_key, redis_address
from hs.repl.redis_link import Audience, RedisDown, RedisLink
from hs.repl.signing_key import replication_secret_of
from hs.settings.settings import Settings
from hs.storage.database import Database

SUBSCRIBE_S = 3.0
ANSWER_S = 2.0
OTHERS_S = 0.3
# The processes remember the last number of each sender: always the same name, with a newer life.
NAME = "roll call"


async def hear_processes(
    settings: Settings, database: Database, expected: Set[str]
) -> set[str] | None:
    """Return the names of the processes that answer; None if not even the question comes back.

    Waits for all that are expected, and a moment for others. Raises: RedisDown.
    """
    secret = replication_secret_of(settings)
    key = await database.write(read_envelope_key, secret, secrets.token_hex(16))
    envelopes = Envelopes(key, NAME, life=int(time.time()))
    channel = channel_name(settings.server.server_name)
    link = RedisLink(redis_address(settings.redis), channel, client_name(NAME))
    subscribed, complete = trio.Event(), trio.Event()
    heard: set[str] = set()
    is_back = False

    def on_messages(received: list[bytes]) -> None:
        nonlocal is_back
        for envelope in received:
            try:
                messages = envelopes.open(envelope)
            except InvalidEnvelope:
                continue
            is_back = is_back or not messages
            heard.update(each.instance for each in messages if each.kind is MessageKind.ALIVE)
        if is_back and expected <= heard:
            complete.set()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.listen, subscribed.set, on_messages)
            with trio.move_on_after(SUBSCRIBE_S):
                await subscribed.wait()
            if not subscribed.is_set():
                raise RedisDown("it does not answer")
            question = encode_message(Message(MessageKind.REPLICATE, NAME))
            with trio.move_on_after(ANSWER_S):
                await link.publish(
                    [(Audience.ALL, sealed) for sealed in envelopes.seal([question])]
                )
                await complete.wait()
                await trio.sleep(OTHERS_S)
            nursery.cancel_scope.cancel()
    except* RedisDown as group:
        raise RedisDown(str(group.exceptions[0])) from None
    finally:
        with trio.move_on_after(ANSWER_S, shield=True):
            await link.aclose()
    return heard if is_back else None
