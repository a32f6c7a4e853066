"""The local socket by which commands speak to a running mount; what a command does there is passed in."""
