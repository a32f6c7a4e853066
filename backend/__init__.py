"""The backend: metadata, blocks and the APIs that serve them."""
