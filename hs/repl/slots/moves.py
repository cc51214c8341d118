"""The hand-over of slots that administrators ask for."""

from typing import Protocol

from hs.repl.rpc import rpc


class SlotMoves(Protocol):
    """Hands over slots, in every process that may hold some."""

    @rpc(timeout_s=120.0, catch_up=False)
    async def rebalance(self) -> dict[str, int]:
        """Hand over at once what other processes should hold; return how many slots each got."""
