"""Taking a bundle in: the update table, its states, and where bytes come from."""
