"""The media repository: uploads, downloads, thumbnails, storage providers, cleanup."""
