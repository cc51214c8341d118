"""End-to-end encryption: keys, device lists, to-device messages, key backups, cross-signing."""
