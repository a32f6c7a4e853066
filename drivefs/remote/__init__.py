"""The backend as the client sees it: typed calls over HTTP, with deadlines, retries and one tree of errors."""
