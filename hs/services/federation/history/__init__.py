"""Events of other servers that are asked for, and those that this server answers with."""
