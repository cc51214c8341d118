"""What the server is and offers: versions, capabilities, TURN servers, well-known files."""
