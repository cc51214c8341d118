"""URL previews: fetching, parsing in the sandbox, images, caching."""
