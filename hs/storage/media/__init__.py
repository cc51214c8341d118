"""Tables of media, their files, and previews of links."""
