"""End-to-end tests of rooms: media, search, previews, invites, delayed events."""
