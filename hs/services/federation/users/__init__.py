"""Profiles, devices and media of users of other servers."""
