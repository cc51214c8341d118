"""Server information: versions, capabilities, TURN servers, well-known files."""
