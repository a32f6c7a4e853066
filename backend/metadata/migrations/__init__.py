"""Steps from one schema to the next; run by `metadata.upgrade`, oldest first, within one transaction."""
