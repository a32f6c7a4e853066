"""`python -m drivefs`: the same as the `drivefs` program."""

import sys

from drivefs.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
