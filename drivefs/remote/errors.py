"""What can come of a call to the backend, other than its answer. Each message is a sentence for people.

RemoteError
 +-- Offline                 no answer that can be believed: the same call may be made again later, nothing is lost
 |    +-- Silent             nothing came in time, or too little: not even a refusal
 |    +-- NotDrivefs         something else answered: a captive portal, a proxy, another service, a wrong URL
 |    +-- UntrustedServer    its TLS certificate does not prove who it is
 |    +-- OtherProtocol      a drivefs server, of a version that this program does not speak with
 |    +-- PassExpired        it wants a pass that is good; the transport gets one and asks again
 +-- Refused                 the backend's definite answer to this very request is no; `code` says why
 +-- BlockLost              a block cannot be had as it should be: it is damaged, or was not sent
 |    +-- BlockGone         the backend does not have it
 +-- InsecureUrl             the URL would send the token and the content readable by anyone on the way, or is none

Invariant: whoever catches `Offline` and `Refused` has caught all that a call of an open `Remote` can raise
(`BlockLost` is the downloader's).
"""

from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import BlockId

NO_BLOCK = BlockId(b"")


class RemoteError(Exception):
    """Anything that keeps a call from its answer."""


class Offline(RemoteError):
    """The backend was not reached, did not answer in time or could not serve; whether it acted is not known."""


class Silent(Offline):
    """Nothing came for as long as is waited for; whoever waits is told, and does not wait as long once more."""


class NotDrivefs(Offline):
    """What answered is not a drivefs server; nothing that it said is believed."""


class UntrustedServer(Offline):
    """The server's certificate does not prove that it is who the URL names."""


class OtherProtocol(Offline):
    """The server speaks another version of the protocol."""


class PassExpired(Offline):
    """What was shown is good no longer; whoever meets this beyond the transport was given one that never was."""


class Refused(RemoteError):
    """The backend answered, and refuses this request."""

    def __init__(self, refusal: ProtocolError) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal

    @property
    def code(self) -> Code:
        """Why, for programs."""
        return self.refusal.code


class BlockLost(RemoteError):
    """The backend cannot give bytes that it once acknowledged: an error to whoever reads them, never zeros."""


class BlockGone(BlockLost):
    """The backend says that it does not have a block: what arrives damaged, or not at all, may come yet.

    `block` is which one; empty if it is not even known of which blocks a content was.
    """

    def __init__(self, message: str, block: BlockId = NO_BLOCK) -> None:
        super().__init__(message)
        self.block = block


class InsecureUrl(RemoteError):
    """The URL is not one that a token may be sent to."""
