"""Keeps the local state and the backend in agreement: uploads what the journal holds, applies what the feed brings."""
