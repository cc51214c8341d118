"""A state that changes only as a table of transitions allows."""

import enum
from collections.abc import Mapping
from typing import Generic, TypeVar

S = TypeVar("S", bound=enum.Enum)
E = TypeVar("E", bound=enum.Enum)

Transitions = Mapping[S, Mapping[E, S]]
"""For each state the events that may happen in it, and the state that follows."""


class ImpossibleTransition(Exception):
    """An event happened in a state in which the table does not allow it."""

    def __init__(self, state: enum.Enum, event: enum.Enum) -> None:
        super().__init__(f"{event} is impossible in state {state}")


class StateMachine(Generic[S, E]):
    """The state of one object."""

    def __init__(self, transitions: Transitions[S, E], state: S) -> None:
        self._transitions = transitions
        self._state = state

    @property
    def state(self) -> S:
        """The present state."""
        return self._state

    def handle(self, event: E) -> S:
        """Move to the state that follows on an event, and return it.

        Raises: ImpossibleTransition; the state stays as it was.
        """
        following = self._transitions[self._state].get(event)
        if following is None:
            raise ImpossibleTransition(self._state, event)
        self._state = following
        return following
