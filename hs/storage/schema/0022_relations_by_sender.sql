-- pre
-- Whether a user has reacted before is asked for each reaction: without this, all reactions to the
-- event are read, of which a popular one has thousands. The same for who took part in a thread.

CREATE INDEX relations_senders ON relations (parent_id, rel_type, sender);
