"""Tables of devices, their keys, key backups and messages to devices."""
