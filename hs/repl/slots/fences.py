"""What the writers of memory streams store, only as long as they hold the slots of the keys.

Nothing fences such a writer (hs/repl/slots/table.py). It checks before it publishes, but a
transaction may reach the database later: a process that was stopped sends it when it goes on, and
others have stored something newer meanwhile. So the transaction itself looks at who holds the
slots, and locks them: a hand-over waits for its end, or comes first, and then nothing of it is
stored.
"""

from collections.abc import Awaitable, Callable, Collection

from hs.repl.slots.assignment import slot_of
from hs.repl.slots.table import SlotTable
from hs.storage import stream_slots
from hs.storage.database import Tx

OwnedKeys = Callable[[Tx], Awaitable[Collection[str]]]
"""Returns, in a transaction, the keys that this process owns until the transaction ends."""

KeyFence = Callable[[Collection[str]], OwnedKeys]
"""Takes keys that this process owns now."""


def fence_keys(table: SlotTable, stream: str, keys: Collection[str]) -> OwnedKeys:
    """Return a function that selects the keys whose slots this process has held since."""
    epochs = table.epochs(stream)
    held = {slot: epochs[slot] for slot in map(slot_of, keys)}

    async def owned(tx: Tx) -> Collection[str]:
        locked = await stream_slots.lock_held(tx, stream, table.instance, held)
        return {key for key in keys if slot_of(key) in locked}

    return owned


def unfenced(keys: Collection[str]) -> OwnedKeys:
    """Return a function that selects all keys, for the only writer of a stream."""

    async def owned(tx: Tx) -> Collection[str]:
        return keys

    return owned
