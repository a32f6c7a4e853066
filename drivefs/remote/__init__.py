"""The backend as the client sees it: typed calls over HTTP, with deadlines, retries and one tree of errors."""

import sys

# httpx loads a command line of its own, with rich and pygments, where these are installed: each mount and each command
# would take 5 MiB and a tenth of a second for it. What is None here counts as not installed.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
