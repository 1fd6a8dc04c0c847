"""Captions become features: reading them, cutting them into shards, and the three stages that compute a shard."""
