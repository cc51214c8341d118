"""What bounds and restricts an account: rate limits, locks, consent, reserved user IDs."""
