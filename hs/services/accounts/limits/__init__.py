"""Limits on accounts: rate limits, account restrictions, consent, reserved user IDs."""
