"""Keys of accounts: drawn once, wrapped by the deployment's master key, unwrapped when a block is sealed or opened.

Owns the table of account keys and the wrapped form. The master key itself lies outside the data directory and is passed
in. Invariants: a data directory is only ever used with the master key that wrapped its keys; secrets leave this process
wrapped or not at all.
"""

from dataclasses import dataclass

from blake3 import blake3
from nacl import bindings, exceptions
from sqlalchemy import Connection, insert, select

from backend.blockstore.sealed import KEY_BYTES, AccountKey
from backend.metadata.schema import KeyState, account_keys
from backend.metadata.sqlite import Database
from drivefs.protocol.ground import NowNs, RandomBytes
from drivefs.protocol.ids import AccountId

FIRST_KEY = 1
MAX_CACHED_KEYS = 4096
_NONCE_BYTES = bindings.crypto_aead_xchacha20poly1305_ietf_NPUBBYTES


class WrongMasterKey(Exception):
    """The master key at hand did not wrap the keys of this data directory; its text says what that means."""


@dataclass(frozen=True, slots=True)
class MasterKey:
    """The key that wraps all others. Never shown by repr."""

    secret: bytes

    @property
    def name(self) -> str:
        """Tells master keys apart without giving anything of them away."""
        return blake3(self.secret, derive_key_context="drivefs master key name v1").hexdigest(8)

    @property
    def pass_key(self) -> bytes:
        """What seals passes; all servers of a deployment have the same."""
        return blake3(self.secret, derive_key_context="drivefs passes v1").digest()

    def __repr__(self) -> str:
        return f"MasterKey({self.name})"


class AccountKeys:
    """Gives the keys of accounts, with a bounded cache of unwrapped ones."""

    def __init__(self, database: Database, master: MasterKey, now_ns: NowNs, random_bytes: RandomBytes) -> None:
        self._database = database
        self._master = master
        self._now_ns = now_ns
        self._random_bytes = random_bytes
        self._active: dict[AccountId, AccountKey] = {}
        self._opened: dict[tuple[AccountId, int], AccountKey] = {}

    @property
    def pass_key(self) -> bytes:
        """As the master key's."""
        return self._master.pass_key

    def of_copy(self, database: Database) -> "AccountKeys":
        """The keys as a copy of the metadata has them."""
        return AccountKeys(database, self._master, self._now_ns, self._random_bytes)

    async def active(self, account: AccountId) -> AccountKey:
        """The key that seals new blocks of an account; drawn, and durable on return, at the first call."""
        if account not in self._active:
            key = await self._database.read(self._find_active, account)
            if key is None:
                key = await self._database.write(self._establish, account)
            if len(self._active) >= MAX_CACHED_KEYS:
                self._active.clear()
            self._active[account] = key
        return self._active[account]

    async def numbered(self, account: AccountId, number: int) -> AccountKey:
        """One key of an account, active or retired.

        Raises:
            LookupError: the account has no such key.
        """
        place = (account, number)
        if place not in self._opened:
            key = await self._database.read(self._find, account, number)
            if len(self._opened) >= MAX_CACHED_KEYS:
                self._opened.clear()
            self._opened[place] = key
        return self._opened[place]

    async def verify_master(self) -> None:
        """Make sure that the master key is the one of this data directory.

        Raises:
            WrongMasterKey: keys here were wrapped by another one.
        """
        names = await self._database.read(_wrapping_keys)
        if foreign := names - {self._master.name}:
            raise WrongMasterKey(
                f"This data directory is sealed with the master key {', '.join(sorted(foreign))}, and the one at hand "
                f"is {self._master.name}. Nothing was changed, and no block can be read with this key. "
                "Give the right one with --master-key."
            )

    def _find_active(self, connection: Connection, account: AccountId) -> AccountKey | None:
        statement = select(account_keys.c.key, account_keys.c.wrapped).where(
            account_keys.c.account == account, account_keys.c.state == KeyState.ACTIVE
        )
        row = connection.execute(statement).one_or_none()
        return AccountKey(row.key, _unwrap(self._master, account, row.key, row.wrapped)) if row is not None else None

    def _find(self, connection: Connection, account: AccountId, number: int) -> AccountKey:
        statement = select(account_keys.c.wrapped).where(
            account_keys.c.account == account, account_keys.c.key == number
        )
        wrapped = connection.execute(statement).scalar_one_or_none()
        if wrapped is None:
            raise LookupError(f"account {account} has no key {number}")
        return AccountKey(number, _unwrap(self._master, account, number, wrapped))

    def _establish(self, connection: Connection, account: AccountId) -> AccountKey:
        # Another request may have been first: the write transaction is where that is certain.
        if known := self._find_active(connection, account):
            return known
        key = AccountKey(FIRST_KEY, self._random_bytes(KEY_BYTES))
        nonce = self._random_bytes(_NONCE_BYTES)
        row = {
            "account": account,
            "key": key.number,
            "wrapped": nonce + _cipher(key.secret, _associated(account, key.number), nonce, self._master.secret),
            "wrapped_by": self._master.name,
            "state": KeyState.ACTIVE,
            "created_ns": self._now_ns(),
        }
        connection.execute(insert(account_keys), row)
        return key


_cipher = bindings.crypto_aead_xchacha20poly1305_ietf_encrypt


def _associated(account: AccountId, number: int) -> bytes:
    return b"drivefs account key v1 %d %d" % (account, number)


def _unwrap(master: MasterKey, account: AccountId, number: int, wrapped: bytes) -> bytes:
    nonce, body = wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:]
    try:
        return bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
            body, _associated(account, number), nonce, master.secret
        )
    except (exceptions.CryptoError, exceptions.ValueError) as error:
        raise WrongMasterKey(f"Key {number} of account {account} does not open with the master key.") from error


def _wrapping_keys(connection: Connection) -> set[str]:
    return set(connection.execute(select(account_keys.c.wrapped_by).distinct()).scalars())
