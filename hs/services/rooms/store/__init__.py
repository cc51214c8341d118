"""The stores of rooms: events, state and memberships, cached in memory."""
