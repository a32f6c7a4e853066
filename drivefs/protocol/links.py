"""Requests and replies about public links: files that whoever has the address may download; as `messages` are.

Owns shapes and their bounds, and the address of a link.
"""

from typing import Annotated

from msgspec import Meta

from drivefs.protocol.ids import InodeId
from drivefs.protocol.messages import BOUND, Count, Doing, Message

ADDRESS = "/l/{token}"
"""Where a link is, below the server's URL."""


class CreateLinkRequest(Doing, kw_only=True):
    """Let whoever has the address download a file, until a time (0: for ever), with a password (empty: without).

    The token is made of the request, where it has an `op`.
    """

    inode: Annotated[InodeId, BOUND]
    expires_ns: Count = 0
    password: Annotated[str, Meta(max_length=1024)] = ""


class LinkInfo(Message, kw_only=True):
    """A link that the caller made, or another `user` to what the caller owns.

    `path` is where its file is in the caller's drive; None: it is gone, the link gives nothing.
    """

    link: int
    path: bytes | None
    created_ns: int
    expires_ns: int = 0
    has_password: bool = False
    user: str = ""


class LinkReply(Message, kw_only=True):
    """A new link; nobody is told the token again."""

    link: LinkInfo
    token: str


class LinksReply(Message, kw_only=True):
    """The links that the caller may end, the newest first."""

    links: list[LinkInfo]


class RevokeLinkRequest(Doing, kw_only=True):
    """End a link."""

    link: Annotated[int, BOUND]
