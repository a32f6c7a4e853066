"""The steps of the server that decide who asks, and what is told and done for whom."""

from tests.weakenings.weakening import Weakening

ACCESS = (
    Weakening(
        "a device's own token is good for passes only",
        "backend/service/accounts.py",
        "        if self._ground.limits.pass_seconds:\n",
        "        if False:\n",
        "tests/backend/api/test_passes.py",
    ),
    Weakening(
        "a pass is the server's own",
        "backend/service/passes.py",
        "not hmac.compare_digest(whole[_SAID.size :], _seal(key, whole[: _SAID.size]))",
        "False",
        "tests/backend/api/test_passes.py",
    ),
    Weakening(
        "a pass runs out",
        "backend/service/passes.py",
        " or expires_ns <= now_ns:",
        ":",
        "tests/backend/api/test_passes.py",
    ),
    Weakening(
        "one copy of a device does not give up what the other sends",
        "backend/service/devices.py",
        " life_count == 1,",
        "",
        "tests/backend/api/test_presence.py",
    ),
    Weakening(
        "a device commits in its last session",
        "backend/service/sessions.py",
        ' or nonce not in (b"", known):',
        ":",
        "tests/backend/service/test_ops.py tests/sync/test_rolled_back.py",
    ),
    Weakening(
        "a rolled-back disk is found out",
        "backend/service/sessions.py",
        "    return bool(request.epoch == life.epoch and request.last_nonce == life.nonce)\n",
        "    return bool(request.epoch == life.epoch)\n",
        "tests/backend/service/test_sessions.py",
    ),
    Weakening(
        "a copy is not given the epoch that the original may have heard of",
        "backend/service/sessions.py",
        "        return bool(request.epoch in (0, life.epoch))\n",
        "        return True\n",
        "tests/backend/service/test_sessions.py",
    ),
    Weakening(
        "a device that was put back to an earlier moment of its mount is known",
        "backend/service/sessions.py",
        " and _heard(connection, caller, epoch) <= request.sent:",
        ":",
        "tests/sync/test_rolled_back.py",
    ),
    Weakening(
        "what was removed before it was shared is told to its owner only",
        "backend/service/sight.py",
        "    if access.role is Role.OWNER:\n        return states\n",
        "    if access:\n        return states\n",
        "tests/backend/service/test_shared_trash.py",
    ),
    Weakening(
        "what a file was when it was shared is told to members only if it was not removed by then",
        "backend/service/revisions.py",
        "        if row is not None and (row.nlink or _is_of_all(connection, access, inode)):\n",
        "        if row is not None:\n",
        "tests/backend/service/test_shared_trash.py",
    ),
    Weakening(
        "what was removed before it was shared is brought back by its owner only",
        "backend/service/commit/territory.py",
        "workspace if is_seen else home.workspace",
        "workspace",
        "tests/backend/service/test_shared_trash.py",
    ),
    Weakening(
        "where it was is told to its owner only",
        "backend/service/commit/gone.py",
        "seen_from=self.ground.seen_from)",
        "seen_from=0)",
        "tests/backend/service/test_shared_trash.py",
    ),
    Weakening(
        "what left a folder before it was shared is not its members' to fetch",
        "backend/service/shares.py",
        "            share = WorkspaceId(ids.random_id(self._ground.random_bytes))\n",
        "            share = WorkspaceId(self._ground.limits.quota_bytes)\n",
        "tests/backend/service/test_shares.py",
    ),
    Weakening(
        "members fetch nothing of what was removed before it was shared",
        "backend/service/conversion.py",
        "    rows = [row for row in rows if row.nlink]\n",
        "",
        "tests/backend/api/test_shared_blocks.py",
    ),
)
