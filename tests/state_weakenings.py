"""The safety steps of what a device keeps in rows, ids and files: another part of the table in `weakenings`."""

from tests.weakening import Weakening

STATE = (
    Weakening(
        "a mutation that is not what was written is not sent",
        "cache/journal.py",
        "        if row_digest(body, n) != digest or mark_of(",
        "        if mark_of(",
        "tests/cache/test_rotten_rows.py",
    ),
    Weakening(
        "bytes in a row that are not what was written are not read",
        "cache/drafts.py",
        " or digest(data) != record.digest:",
        ":",
        "tests/cache/test_rotten_rows.py",
    ),
    Weakening(
        "a mutation is marked as sent once",
        "cache/journal.py",
        '                " WHERE n = ? AND state = 0",\n                rows,',
        '                " WHERE n = ?",\n                rows,',
        "tests/cache/test_journal.py",
    ),
    Weakening(
        "a reservation of ids that was rolled back is none",
        "cache/journal.py",
        "        self._ids.rolled_back()\n",
        "",
        "tests/cache/test_journal.py",
    ),
    Weakening(
        "a range of ids that is told twice goes on where it was",
        "cache/inode_ids.py",
        "INSERT OR IGNORE INTO id_ranges",
        "INSERT OR REPLACE INTO id_ranges",
        "tests/cache/test_journal.py",
    ),
    Weakening(
        "what a failed transaction took back is not dropped with the next",
        "cache/journal.py",
        "        self._removed.clear()\n        self._loosened = Forgotten([], [], False)\n        self.pending_count",
        "        self._loosened = Forgotten([], [], False)\n        self.pending_count",
        "tests/cache/test_journal.py",
    ),
    Weakening(
        "an answer inside a transaction settles nothing before it ends",
        "cache/journal.py",
        "        if not self._database.is_in_transaction:\n            self._settled_below = lowest\n",
        "        self._settled_below = lowest\n",
        "tests/cache/test_journal.py",
    ),
    Weakening(
        "what is pending again is looked at again",
        "cache/journal.py",
        "                    self.remove(row.n)\n            self._settled_below = OpNumber(0)\n",
        "                    self.remove(row.n)\n",
        "tests/cache/test_journal.py",
    ),
    Weakening(
        "records that come later are not among those on their way",
        "cache/drafts.py",
        "max(first, frozen + 1, ",
        "max(first, ",
        "tests/cache/test_drafts.py",
    ),
    Weakening(
        "a place that was rolled back is not used",
        "cache/drafts.py",
        "        self._cached.clear()\n        self._rows.clear()\n",
        "        self._rows.clear()\n",
        "tests/cache/test_drafts.py",
    ),
    Weakening(
        "staging that was not let go after all stays",
        "cache/drafts.py",
        "        self.record_bytes = self._bytes_before\n        self.retired.clear()\n",
        "        self.record_bytes = self._bytes_before\n",
        "tests/cache/test_drafts.py",
    ),
    Weakening(
        "a staging file has the bytes of one draft",
        "cache/drafts.py",
        "            self._staging.roll(inode)\n",
        "            pass\n",
        "tests/cache/test_drafts.py",
    ),
    Weakening(
        "a barrier syncs the names that another one is about to sync",
        "cache/staging.py",
        " or any(each.has_new_names for each in self._under_way)",
        "",
        "tests/cache/test_barrier.py",
    ),
)
