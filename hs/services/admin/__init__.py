"""Services for administrators: content reports, server notices, consent notices."""
