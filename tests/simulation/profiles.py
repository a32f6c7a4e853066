"""What a run is like: how many devices, how much they do, and which faults come how often.

Owns the profiles by name, and what each seed makes of one: it takes some of the profile's faults and leaves others out,
since what one fault brings about is often hidden by another one.
"""

import random
from dataclasses import dataclass, replace

from tests.simulation.network import Mood


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """See the module. Seconds are the average from one fault to the next; 0: it does not come."""

    clients: int = 2
    users: int = 1
    """How many users there are; they have devices in turn."""
    operations: int = 20
    """How many things the programs of each device do."""
    business: float = 0.5
    """How many of them follow the one before at once."""
    pause_seconds: float = 1.0
    """How long they wait before the others, on average."""
    moods_seconds: float = 0.0
    """The network changes how it treats messages."""
    cuts_seconds: float = 0.0
    """The network is cut, in one direction or both, or comes and goes."""
    kills_seconds: float = 0.0
    """The process of a device dies."""
    power_seconds: float = 0.0
    """A device loses power."""
    unmounts_seconds: float = 0.0
    """A device is unmounted for a while."""
    server_kills_seconds: float = 0.0
    server_power_seconds: float = 0.0
    database_faults: float = 0.0
    """How many transactions of the server fail."""
    store_faults: float = 0.0
    """How many calls of the server's object store fail."""
    disk_faults_seconds: float = 0.0
    """A device's disk is full for a while, or a sync fails, or what can be fetched again rots."""
    rollbacks_seconds: float = 0.0
    """A device's disk goes back to an older state."""
    pins_seconds: float = 0.0
    """A device pins something, or pins it no longer."""
    flaps_seconds: float = 0.0
    """The network is there for so long, and then as long away, again and again."""
    tidies_seconds: float = 0.0
    """The server lets go of all that age lets go, which is nearly everything but what files have now."""
    forgets_seconds: int = 0
    """Blocks that nothing needs are condemned after so long, and deleted after as long again; pins hold for twice, the
    trash for four times as long. 0: after days."""
    backs_seconds: float = 0.0
    """People name moments of the drive, keep revisions, and bring back what was."""
    shares_seconds: float = 0.0
    """Users share what they have, answer invitations, leave, and end it."""
    quotas_seconds: float = 0.0
    """A user may have less than there is, or as much as ever again."""
    restores_seconds: float = 0.0
    """The server is put back to an older state of its data."""
    has_rules: bool = False
    """Programs say what stays on each device, and make files that do."""
    has_sizes: bool = False
    """Programs give files other sizes."""
    has_asides: bool = False
    """Programs move files away that they have open, and use their places."""
    has_tools: bool = False
    """Programs save by backups, by links, and at the end of files."""
    pass_seconds: int = 0
    """For how long the server takes a pass; 0: devices show their tokens."""
    cache_bytes: int = 2**28
    """How much the block cache of a device may hold."""
    turns: int = 0
    """How often a device works while the others do nothing, after all has come to rest; 0: all work side by side."""
    look_seconds: float = 0.5
    """How often it is looked at what has to hold at any time."""
    rest_seconds: float = 900.0
    """Within so much virtual time after the last fault all is at rest."""


QUIET = Profile()
NETWORK = Profile(moods_seconds=6.0, cuts_seconds=10.0)
CRASHES = Profile(kills_seconds=12.0, power_seconds=15.0, unmounts_seconds=20.0)
SERVER = Profile(server_kills_seconds=12.0, server_power_seconds=15.0, database_faults=0.02, store_faults=0.03)
DISK = Profile(disk_faults_seconds=8.0, kills_seconds=20.0)
MIXED = Profile(
    moods_seconds=8.0,
    cuts_seconds=12.0,
    kills_seconds=15.0,
    power_seconds=20.0,
    unmounts_seconds=25.0,
    server_kills_seconds=15.0,
    server_power_seconds=25.0,
    database_faults=0.01,
    store_faults=0.02,
    disk_faults_seconds=15.0,
)
PROFILES = {
    "quiet": QUIET,
    "network": NETWORK,
    "crashes": CRASHES,
    "server": SERVER,
    "disk": DISK,
    "mixed": MIXED,
    "rollbacks": Profile(rollbacks_seconds=8.0, kills_seconds=20.0),
    "cache": Profile(
        pins_seconds=2.0, cache_bytes=150_000, kills_seconds=20.0, disk_faults_seconds=15.0, operations=30
    ),
    "passes": Profile(
        pass_seconds=1, moods_seconds=6.0, cuts_seconds=20.0, kills_seconds=20.0, server_kills_seconds=15.0
    ),
    "tidy": replace(MIXED, tidies_seconds=2.0, pause_seconds=3.0, disk_faults_seconds=0.0, operations=30),
    "history": replace(
        MIXED,
        tidies_seconds=2.0,
        forgets_seconds=4,
        backs_seconds=8.0,
        pause_seconds=8.0,
        disk_faults_seconds=0.0,
        operations=40,
    ),
    "shares": replace(MIXED, clients=4, users=2, shares_seconds=0.7),
    "rules": replace(MIXED, has_rules=True, operations=30),
    "sizes": replace(MIXED, has_sizes=True, operations=30),
    "asides": replace(MIXED, has_asides=True, operations=30),
    "tools": replace(MIXED, has_tools=True, has_rules=True, operations=30),
    "quotas": replace(MIXED, quotas_seconds=3.0, operations=30),
    "restores": Profile(
        clients=3,
        restores_seconds=6.0,
        moods_seconds=8.0,
        cuts_seconds=12.0,
        kills_seconds=15.0,
        unmounts_seconds=25.0,
        server_kills_seconds=15.0,
    ),
    "turns": replace(MIXED, power_seconds=0.0, disk_faults_seconds=0.0, turns=4, operations=20),
    "alone": replace(MIXED, clients=1, operations=30),
    "day": Profile(operations=300, pause_seconds=576.0, flaps_seconds=20.0, look_seconds=60.0),
    "long": replace(MIXED, operations=120, clients=3),
}
ALWAYS = (
    "pins_seconds",
    "tidies_seconds",
    "forgets_seconds",
    "backs_seconds",
    "shares_seconds",
    "quotas_seconds",
    "restores_seconds",
    "pass_seconds",
    "flaps_seconds",
    "look_seconds",
    "rest_seconds",
)
"""These are as the profile says, whatever the seed."""
FAULTS = [
    name for name in Profile.__dataclass_fields__ if name.endswith(("_faults", "_seconds")) and name not in ALWAYS
]


def drawn(profile: Profile, chance: random.Random) -> Profile:
    """What one seed makes of a profile: each of its faults comes as often as said, more often, or not at all."""
    found = {}
    for name in FAULTS:
        often = getattr(profile, name)
        factor = chance.choice([0.0, 0.0, 0.5, 1.0, 1.0, 2.0])
        if name != "pause_seconds":
            found[name] = often * factor
    return replace(profile, **found)


def sized(profile: Profile, clients: int, operations: int) -> Profile:
    """A profile with other sizes, where they are not 0."""
    return replace(profile, clients=clients or profile.clients, operations=operations or profile.operations)


def drawn_mood(chance: random.Random) -> Mood:
    """A way that is slow, or loses messages, or does worse."""
    kind = chance.choice(["slow", "lossy", "breaking", "repeating", "trickling", "portal", "garbling", "all"])
    slow = Mood(longest_seconds=chance.choice([0.05, 0.5, 3.0]))
    worse = {
        "slow": {},
        "lossy": {"lost_request": 0.1, "lost_reply": 0.15},
        "breaking": {"refused": 0.1, "broken": 0.15},
        "repeating": {"repeated": 0.3},
        "trickling": {"trickling": 0.3},
        "portal": {"foreign": 0.5},
        "garbling": {"garbled": 0.1},
    }
    worse["all"] = {name: each / 4 for part in worse.values() for name, each in part.items()}
    return replace(slow, **worse[kind])
