"""End-to-end encryption: device keys, cross-signing, key backups, to-device messages."""
