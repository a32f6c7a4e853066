"""Passes: what a device shows with each request instead of its own token, for as long as they are good.

A device's token is what its login gave it: it lasts until it is revoked, and is only ever sent to ask for a pass. Owns
the form of passes; pure. Nothing is stored: a pass is what the deployment's key says of a device and a time. Invariant:
a pass says who asks, and no more; whether the device is revoked is looked up each time.
"""

import base64
import binascii
import hmac
import struct

from blake3 import blake3

from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import DeviceId

PREFIX = "pass."
"""No token of a device has a dot."""
_SAID = struct.Struct(">qq")
_RUN_OUT = "This pass has run out. The device gets another one for its token."
_REQUIRED = (
    "This server asks devices for passes. A drivefs that gets none by itself is too old for it: update drivefs on this "
    "device. Nothing is lost, what waits is sent then."
)


def issue(key: bytes, device: DeviceId, expires_ns: int) -> str:
    """A pass for a device, good until then."""
    said = _SAID.pack(device, expires_ns)
    return PREFIX + base64.urlsafe_b64encode(said + _seal(key, said)).decode()


def is_pass(token: str) -> bool:
    """Whether it is one, or would be."""
    return token.startswith(PREFIX)


def holder(key: bytes, token: str, now_ns: int) -> DeviceId:
    """Whose pass it is.

    Raises:
        ProtocolError: `pass_expired`: it is good no more, or never was.
    """
    try:
        whole = base64.b64decode(token.removeprefix(PREFIX), altchars=b"-_", validate=True)
        device, expires_ns = _SAID.unpack(whole[: _SAID.size])
    except (binascii.Error, ValueError, struct.error):
        raise run_out() from None
    if not hmac.compare_digest(whole[_SAID.size :], _seal(key, whole[: _SAID.size])) or expires_ns <= now_ns:
        raise run_out()
    return DeviceId(device)


def run_out() -> ProtocolError:
    """The refusal that a device answers by asking for a pass."""
    return ProtocolError(Code.PASS_EXPIRED, _RUN_OUT)


def required() -> ProtocolError:
    """The same for a device that shows its own token; one that does not know of passes shows the message to people."""
    return ProtocolError(Code.PASS_EXPIRED, _REQUIRED)


def _seal(key: bytes, said: bytes) -> bytes:
    return blake3(said, key=key).digest()
