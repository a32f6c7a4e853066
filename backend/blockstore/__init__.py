"""Where sealed blocks lie: object stores and encryption at rest; no metadata and no rules."""
