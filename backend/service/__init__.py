"""The rules of the backend, each once; no HTTP and no storage of its own."""
