"""Where each message goes: paths of the sync API, below the server's URL. All are POST and msgpack but `HEALTH`."""

PROTOCOL = 1

HEALTH = "/healthz"
LOGIN = "/sync/v1/login"
LOGOUT = "/sync/v1/logout"
SESSION = "/sync/v1/session"
ID_RANGES = "/sync/v1/id-ranges"
USAGE = "/sync/v1/usage"
CHANGES = "/sync/v1/changes"
LIST = "/sync/v1/workspaces/{workspace}/list"
INODES = "/sync/v1/workspaces/{workspace}/inodes"
CONTENT = "/sync/v1/workspaces/{workspace}/content"
COMMIT = "/sync/v1/workspaces/{workspace}/commit"
MISSING = "/sync/v1/workspaces/{workspace}/blocks/missing"
PUT_BLOCKS = "/sync/v1/workspaces/{workspace}/blocks/put"
GET_BLOCKS = "/sync/v1/workspaces/{workspace}/blocks/get"

MSGPACK = "application/vnd.drivefs.msgpack"
FRAMED = "application/vnd.drivefs.blocks"
"""Content type of framed blocks."""
