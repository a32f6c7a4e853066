"""`python -m backend` is `drivefs-server`."""

from backend.cli import main

main()
