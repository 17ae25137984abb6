"""From candidates to a finished set: shards, data card, gallery and manifest."""
