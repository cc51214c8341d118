"""Accounts: registration, login, devices, profiles, account data, third-party identifiers."""
