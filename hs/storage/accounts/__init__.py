"""Users, their tokens, third-party identifiers, profiles and account data."""
