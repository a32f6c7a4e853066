"""What a device keeps on its own disk: the journal of its pending changes, staging, the replica and the block cache."""
