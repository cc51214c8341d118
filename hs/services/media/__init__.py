"""The media repository: files that users upload, and pictures of them in smaller sizes."""
