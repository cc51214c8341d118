"""Tables of accounts, their tokens, addresses, profiles and account data."""
