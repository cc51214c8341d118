"""Media, their files, and URL previews."""
