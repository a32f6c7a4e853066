"""The whole table of safety steps; `gate` is the program that tries it."""

from tests.weakenings.access import ACCESS
from tests.weakenings.commits import COMMITS
from tests.weakenings.damage import DAMAGE
from tests.weakenings.durability import DURABILITY
from tests.weakenings.files import FILES
from tests.weakenings.state import STATE
from tests.weakenings.store import STORE
from tests.weakenings.sync import SYNC

WEAKENINGS = (*DURABILITY, *DAMAGE, *STATE, *SYNC, *FILES, *ACCESS, *COMMITS, *STORE)
