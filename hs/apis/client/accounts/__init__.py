"""Accounts: registration, log-in, devices, profiles, account data, addresses."""
