"""The feature store: tensors of frozen models in Parquet, committed shard by shard exactly once."""
