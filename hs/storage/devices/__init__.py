"""Devices, their keys, key backups and to-device messages."""
