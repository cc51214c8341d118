"""End-to-end encryption: keys, cross-signing, backups, messages to devices."""
