"""Ephemeral data: typing notifications, receipts and read markers, presence."""
