"""The tables of the journal and of the replica, column by column, and their versions.

Owns the DDL only. The version is SQLite's `user_version`; a higher one than ours is refused and left untouched.
`digest` is the XXH3-64 of all other columns of the row (see `sealing`), for rows that exist nowhere else.
"""

JOURNAL_VERSION = 3
"""Since 2 there may be transactions in the file `redo` that the database lacks, since 3 those of several COMMITs; the
tables are as in 1."""
REPLICA_VERSION = 2
"""A replica of another version is thrown away: it is fetched again."""

IS_MARKED = "instr(state, x'647269766566732e636f6e666c696374') > 0"
"""Holds for states that have the attribute `drivefs.conflict`, whose name stands in the wire form as it is. Both
databases keep an index of these, so that conflict copies are found without looking at all other inodes. It may hold for
states that only contain the same bytes."""

JOURNAL_ADDITIONS = f"""
CREATE INDEX IF NOT EXISTS inodes_marked ON inodes (inode) WHERE {IS_MARKED};
CREATE INDEX IF NOT EXISTS mutations_ignored ON mutations (inode) WHERE state = 4;
"""
"""What a journal gets when it is opened and lacks it; programs that do not know of it go on with it."""

JOURNAL = """
CREATE TABLE meta (           -- facts of the device, by name
    key TEXT PRIMARY KEY,
    value BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE counters (       -- numbers that are never given out twice
    name TEXT PRIMARY KEY,    -- 'op', 'draft' (place of a draft's records), 'file' (staging)
    reserved INTEGER NOT NULL -- all numbers below may have been given out
) WITHOUT ROWID;

CREATE TABLE id_ranges (      -- inode ids that the server handed to this device
    start INTEGER PRIMARY KEY,
    next INTEGER NOT NULL,    -- the lowest id that was surely never given out
    digest INTEGER NOT NULL
);

CREATE TABLE inodes (         -- overlay: shadows the replica's inodes
    inode INTEGER PRIMARY KEY,
    op INTEGER NOT NULL,      -- the last mutation that touched it; 0: only a draft did
    state BLOB NOT NULL,      -- wire form of InodeState; nlink 0: removed
    digest INTEGER NOT NULL
);

CREATE TABLE dentries (       -- overlay: shadows the replica's dentries
    parent INTEGER NOT NULL,
    name BLOB NOT NULL,
    inode INTEGER NOT NULL,   -- 0: a tombstone, the name is gone
    op INTEGER NOT NULL,      -- the last mutation that touched it
    digest INTEGER NOT NULL,
    PRIMARY KEY (parent, name)
) WITHOUT ROWID;

CREATE TABLE mutations (      -- the journal, in the order of n
    n INTEGER PRIMARY KEY,
    state INTEGER NOT NULL,   -- RowState: 0 pending, 1 sent, 2 acknowledged, 3 failed, 4 ignored
    inode INTEGER NOT NULL,   -- its subject
    other INTEGER NOT NULL,   -- second subject (replaced by a rename, or the other of an exchange); 0: none
    seq INTEGER NOT NULL,     -- acknowledged: the commit it is part of; else 0
    revision INTEGER NOT NULL,-- acknowledged store: the number its revision got; else 0
    status TEXT NOT NULL,     -- failed: the server's final answer; else empty
    reason TEXT NOT NULL,     -- failed: why; else empty
    body BLOB NOT NULL,       -- wire form of the mutation; never changes once sent
    digest INTEGER NOT NULL,  -- of n and body
    mark INTEGER NOT NULL     -- digest of n, state, seq, revision, status and reason
);
CREATE INDEX mutations_by_inode ON mutations (inode);
CREATE INDEX mutations_by_other ON mutations (other) WHERE other != 0;
CREATE INDEX mutations_acknowledged ON mutations (seq) WHERE state = 2;
CREATE INDEX mutations_failed ON mutations (n) WHERE state = 3;

CREATE TABLE drafts (         -- content of an inode that no revision has yet
    inode INTEGER PRIMARY KEY,
    place INTEGER NOT NULL,   -- its records have the ids place * 2^28 + 1 and up
    state BLOB NOT NULL,      -- wire form of DraftRow
    digest INTEGER NOT NULL
);

CREATE TABLE bases (          -- block list of the revision a draft stands on; absent: not fetched yet
    inode INTEGER PRIMARY KEY,
    blocks BLOB NOT NULL,     -- packed
    digest INTEGER NOT NULL
);

CREATE TABLE records (        -- writes, in the order of id; later ones cover earlier ones
    id INTEGER PRIMARY KEY,
    file_offset INTEGER NOT NULL,
    length INTEGER NOT NULL,  -- 0: no write, the file was cut or extended to file_offset
    staging_file INTEGER NOT NULL,   -- 0: the bytes are in `data`
    staging_offset INTEGER NOT NULL,
    content INTEGER NOT NULL, -- XXH3-64 of the bytes written
    digest INTEGER NOT NULL,  -- of all columns but data
    data BLOB                 -- up to 4 KiB; NULL: staged
);

CREATE TABLE retired (        -- staging files whose bytes nothing needs any more; removed after the next barrier
    file INTEGER PRIMARY KEY
);

CREATE TABLE quarantine (     -- rows that did not verify, as they were found
    id INTEGER PRIMARY KEY,
    origin TEXT NOT NULL,     -- the table they were in
    content BLOB NOT NULL     -- msgpack list of the columns
);
"""

REPLICA = """
CREATE TABLE inodes (
    inode INTEGER PRIMARY KEY,
    seq INTEGER NOT NULL,     -- the state is right as of this seq
    state BLOB NOT NULL       -- wire form of InodeState
);
CREATE INDEX inodes_marked ON inodes (inode) WHERE instr(state, x'647269766566732e636f6e666c696374') > 0;

CREATE TABLE dentries (
    parent INTEGER NOT NULL,
    name BLOB NOT NULL,
    inode INTEGER NOT NULL,   -- 0: gone as of seq; kept only while the directory is not complete
    seq INTEGER NOT NULL,     -- right as of this seq
    PRIMARY KEY (parent, name)
) WITHOUT ROWID;

CREATE INDEX dentries_by_inode ON dentries (inode) WHERE inode != 0;

CREATE INDEX dentries_gone ON dentries (parent) WHERE inode = 0;

CREATE TABLE complete (       -- directories all of whose names are here
    directory INTEGER PRIMARY KEY
);

CREATE TABLE incomplete (     -- directories that are known here, but not all of their names: those to be listed
    place INTEGER PRIMARY KEY,-- in the order in which they became known: breadth first, if they are listed so
    directory INTEGER NOT NULL UNIQUE
);

CREATE TABLE contents (       -- long block lists that were fetched; the oldest go first
    inode INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    blocks BLOB NOT NULL,     -- packed
    size INTEGER NOT NULL,    -- length of blocks
    PRIMARY KEY (inode, revision)
);

CREATE TABLE cursors (        -- where the replica stands in each workspace
    workspace INTEGER PRIMARY KEY,
    cursor BLOB NOT NULL      -- wire form of Cursor
);
"""
