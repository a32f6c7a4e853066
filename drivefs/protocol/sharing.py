"""Requests and replies about shares: who may see a folder, and who is asked to; as `messages` are.

Owns shapes and their bounds. A share is known by the id of its workspace.
"""

from typing import Annotated, Literal

from msgspec import Meta

from drivefs.protocol.ids import InodeId, WorkspaceId
from drivefs.protocol.messages import BOUND, Doing, Message

UserName = Annotated[str, Meta(min_length=1, max_length=256)]


class ShareRequest(Message, kw_only=True):
    """Let another user see a folder of the caller's drive, or change what that user may do there.

    A file that has several names is shared under the one that `parent` and `name` say, and is another file than the
    one under the others from then on.
    """

    inode: Annotated[InodeId, BOUND]
    parent: Annotated[InodeId, BOUND] | None = None
    name: Annotated[bytes, Meta(max_length=255)] = b""
    user: UserName
    role: Literal["editor", "viewer"]


class UnshareRequest(Doing, kw_only=True):
    """Let a user, or (None) everybody but the owner, see a share no more."""

    share: Annotated[WorkspaceId, BOUND]
    user: UserName | None = None


class AnswerRequest(Doing, kw_only=True):
    """Accept an invitation, or decline it; or, as a member, leave a share."""

    share: Annotated[WorkspaceId, BOUND]
    accept: bool = False


class MemberInfo(Message, kw_only=True):
    """Somebody who sees a share, or (`is_invited`) is asked to."""

    user: str
    role: str
    is_invited: bool = False


class ShareInfo(Message, kw_only=True):
    """A share as the caller sees it: where it hangs in the caller's drive, and who else is there.

    `path` is empty where it hangs nowhere. An editor or viewer is told of the owner and of himself only.
    """

    share: WorkspaceId
    root: InodeId
    role: str
    owner: str
    path: bytes = b""
    members: tuple[MemberInfo, ...] = ()


class SharesReply(Message, kw_only=True):
    """All shares that the caller owns or is a member of."""

    shares: list[ShareInfo]


class InvitationInfo(Message, kw_only=True):
    """A share that the caller is asked to see, as what its owner calls it."""

    share: WorkspaceId
    name: bytes
    owner: str
    role: str


class InvitationsReply(Message, kw_only=True):
    """What the caller has not answered yet."""

    invitations: list[InvitationInfo]
