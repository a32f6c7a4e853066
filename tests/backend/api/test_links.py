"""Public links: what a browser or curl gets at their address, and what it does not get."""

import base64
import io
import os
import random
import tarfile
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from backend.service.ground import Limits
from drivefs.protocol import blocks as codec
from drivefs.protocol import changes, links, messages, routes, sharing, wire
from drivefs.protocol.errors import ProtocolError
from drivefs.protocol.ids import Epoch, InodeId, OpNumber, RevisionNumber
from drivefs.protocol.model import InodeKind
from tests.backend.api.served import SESSION, Drive, Request, Served, serving

pytestmark = pytest.mark.anyio
LARGE = bytes(range(256)) * 2000
SECOND = 10**9


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


async def a_drive(served: Served) -> Drive:
    session = (await served.post(routes.SESSION, SESSION)).message(messages.SessionReply)
    ranges = await served.post(routes.ID_RANGES, messages.IdRangesRequest(epoch=Epoch(session.epoch)))
    return Drive(served, session, ranges.message(messages.IdRangesReply).starts[0])


async def make(served: Served, inode: int, expires_ns: int = 0, password: str = "") -> links.LinkReply:
    request = links.CreateLinkRequest(inode=InodeId(inode), expires_ns=expires_ns, password=password)
    return (await served.post(routes.CREATE_LINK, request)).message(links.LinkReply)


async def get(
    served: Served, token: str, password: str | None = None, method: str = "GET", address: str = "192.0.2.7"
) -> Request:
    request = Request(links.ADDRESS.format(token=token), [], "", method=method, address=address)
    if password is not None:
        request.headers["Authorization"] = "Basic " + base64.b64encode(f":{password}".encode()).decode()
    return await served.run(request)


async def test_a_link_gives_the_file_as_it_is_now_as_an_attachment(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(quota_bytes=2**24)) as served:
        drive = await a_drive(served)
        await drive.store_file(10, 'r"é\n'.encode(), LARGE)
        made = await make(served, drive.start + 10)
        reply = await get(served, made.token)
        assert (reply.status, reply.reply) == (200, LARGE)
        headers = reply.reply_headers
        assert headers["content-disposition"] == "attachment; filename=\"r____\"; filename*=UTF-8''r%22%C3%A9%0A"
        assert headers["x-content-type-options"] == "nosniff"
        for told in (headers, (await get(served, "nonsense")).reply_headers):
            assert "sandbox" in told["content-security-policy"]
            assert (told["cache-control"], told["referrer-policy"]) == ("private, no-store", "no-referrer")
        head = await get(served, made.token, method="HEAD")
        assert (head.status, head.reply, head.reply_headers["content-length"]) == (200, b"", str(len(LARGE)))
        await drive.write_anew(20, 10, b"newer", base=1)
        assert (await get(served, made.token)).reply == b"newer"
        token_bytes = made.token.encode()
        assert token_bytes not in (tmp_path / "metadata.db").read_bytes()
        assert token_bytes not in (tmp_path / "metadata.db-wal").read_bytes()
        (listed,) = (await served.post(routes.LINKS)).message(links.LinksReply).links
        assert (listed.path, listed.has_password) == ('r"é\n'.encode(), False)
        assert (await served.post(routes.REVOKE_LINK, links.RevokeLinkRequest(link=listed.link))).status == 200
        assert (await get(served, made.token)).status == 404
        assert (await get(served, "nonsense")).reply == (await get(served, made.token)).reply


async def test_a_download_that_broke_off_goes_on_where_it_was(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(3_000_000)
    async with serving(tmp_path, Limits(quota_bytes=2**25)) as served:
        drive = await a_drive(served)
        await drive.store_file(10, b"file", content)
        made = await make(served, drive.start + 10)

        async def part(wanted: str, tag: str | None = None) -> Request:
            request = Request(links.ADDRESS.format(token=made.token), [], "", {"Range": wanted}, method="GET")
            request.headers |= {} if tag is None else {"If-Range": tag}
            return await served.run(request)

        whole = await get(served, made.token)
        assert whole.reply_headers["accept-ranges"] == "bytes"
        tag = whole.reply_headers["etag"]
        size = len(content)
        for wanted, start, end in (
            ("bytes=2000000-", 2_000_000, size),
            ("bytes=1-1", 1, 2),
            ("bytes=100-2500000", 100, 2_500_001),
            ("bytes=-7", size - 7, size),
            (f"bytes=5-{2 * size}", 5, size),
        ):
            reply = await part(wanted, tag)
            assert (reply.status, reply.reply) == (206, content[start:end])
            assert reply.reply_headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
            assert reply.reply_headers["content-length"] == str(end - start)
        behind = await part(f"bytes={size}-")
        assert (behind.status, behind.reply, behind.reply_headers["content-range"]) == (416, b"", f"bytes */{size}")
        for wanted in ("bytes=0-1,5-6", "bytes=9-3", "lines=1-2", "bytes=-", "bytes=x-"):
            assert (await part(wanted)).reply == content
        await drive.write_anew(20, 10, content[:2_000_000] + b"other", base=1)
        anew = await part("bytes=2000000-", tag)
        assert (anew.status, anew.reply) == (200, content[:2_000_000] + b"other")


async def test_a_file_of_which_a_part_cannot_be_read_is_not_given_without_it(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(quota_bytes=2**24)) as served:
        drive = await a_drive(served)
        await drive.store_file(10, b"file", b"content")
        made = await make(served, drive.start + 10)
        served.objects()[0].unlink()
        with pytest.raises(ProtocolError, match="cannot be read"):
            await get(served, made.token)


@pytest.mark.parametrize(
    ("how", "is_folder", "moment"),
    [
        ("revoked", False, "start"),
        ("revoked", True, "body"),
        ("removed", False, "start"),
        ("removed", True, "body"),
        ("not at all", False, "start"),
        ("not at all", True, "body"),
    ],
)
async def test_a_download_in_flight_ends_with_its_link(
    tmp_path: Path, how: str, moment: str, *, is_folder: bool
) -> None:
    content = random.Random(1).randbytes(3_000_000)
    async with serving(tmp_path, Limits(quota_bytes=2**25)) as served:
        drive = await a_drive(served)
        root, top, base = drive.root, InodeId(drive.start + 10), changes.Base(revision=RevisionNumber(1))
        if is_folder:
            await drive.make_directory(10, b"top")
            drive.root = top
            await drive.store_file(20, b"file", content)
            drive.root = root
        else:
            await drive.store_file(10, b"top", content)
        made = await make(served, top)
        began: list[str] = []

        class Slow(Request):
            async def send(self, message: dict[str, object]) -> None:
                await super().send(message)
                if message["type"] == f"http.response.{moment}" and not began:
                    began.append(moment)
                    if how == "not at all":
                        await drive.make_directory(30, b"something else")
                    elif how == "revoked":
                        await served.post(routes.REVOKE_LINK, links.RevokeLinkRequest(link=made.link.link))
                    else:
                        gone = [(top, root, b"top")]
                        if is_folder:
                            gone.insert(0, (InodeId(drive.start + 20), top, b"file"))
                        for n, (inode, parent, name) in enumerate(gone, 40):
                            unlink = {"inode": inode, "parent": parent, "name": name, "time_ns": 1}
                            await drive._commit(n, [changes.Unlink(n=OpNumber(n), base=base, **unlink)])

        getting = Slow(links.ADDRESS.format(token=made.token), [], "", method="GET")
        if how == "not at all":
            assert len((await served.run(getting)).reply) >= len(content)
        else:
            with pytest.raises(ProtocolError):
                await served.run(getting)
            assert getting.status == 200
            assert len(getting.reply) < len(content)


class Frozen(Request):
    """Takes the beginning of the reply, and no more."""

    async def send(self, message: dict[str, object]) -> None:
        await super().send(message)
        if message["type"] == "http.response.body":
            await anyio.sleep_forever()


class Closing(Request):
    """Goes away with the first part of the body; what is sent to it after that is thrown away, as servers do."""

    async def send(self, message: dict[str, object]) -> None:
        await super().send(message)
        if message["type"] == "http.response.body":
            self.gone.set()
            await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("kind", [Frozen, Closing])
async def test_nothing_is_read_for_who_has_gone_or_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Request]
) -> None:
    monkeypatch.setattr("backend.api.requests.SEND_IDLE_SECONDS", 0.05)
    monkeypatch.setattr("backend.api.requests.LEAST_BYTES_PER_SECOND", 2**40)
    async with serving(tmp_path, Limits(quota_bytes=2**24)) as served:
        drive = await a_drive(served)
        await drive.make_directory(1, b"folder")
        drive.root = InodeId(drive.start + 1)
        for number in range(3):
            await drive.store_file(10 + 2 * number, b"%d" % number, b"content %d" % number)
        made = await make(served, drive.root)
        with anyio.fail_after(60):
            reply = (await served.run(kind(links.ADDRESS.format(token=made.token), method="GET"))).reply
            assert b"content 2" not in reply
            assert len(reply) == tarfile.BLOCKSIZE
            if kind is Frozen:
                wanted = wire.encode(messages.BlocksRequest(blocks=[codec.block_id(b"content 1")]))
                path = routes.GET_BLOCKS.format(workspace=served.workspace)
                assert (await served.run(Frozen(path, [wanted], served.token))).status == 200


async def test_a_password_is_needed_counted_and_checked_and_a_time_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.service.links.MOST_WRONG", 2)
    async with serving(tmp_path, Limits(quota_bytes=2**24)) as served:
        drive = await a_drive(served)
        await drive.store_file(10, b"secret", b"what is in it")
        expires_ns = served.clock() + 60 * SECOND
        made = await make(served, drive.start + 10, expires_ns, "open sesame")
        assert made.link.has_password
        asked = await get(served, made.token)
        assert (asked.status, asked.reply_headers["www-authenticate"][:5]) == (401, "Basic")
        for _ in range(3):
            assert (await get(served, made.token, "open sesame")).reply == b"what is in it"
        for _ in range(2):
            assert (await get(served, made.token, "guess")).status == 401
        assert (await get(served, made.token, "open sesame")).status == 429
        served.clock.ns += 60 * SECOND
        assert (await get(served, made.token, "open sesame")).status == 404
        assert (await served.post(routes.LINKS)).message(links.LinksReply).links == []


async def test_who_guesses_at_several_links_is_stopped_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.service.links.MOST_FROM_ADDRESS", 2)
    async with serving(tmp_path, Limits(quota_bytes=2**24)) as served:
        drive = await a_drive(served)
        await drive.store_file(10, b"secret", b"what is in it")
        first, second = [await make(served, drive.start + 10, password="open sesame") for _ in range(2)]
        for link in (first, second):
            assert (await get(served, link.token, "guess")).status == 401
        assert (await get(served, second.token, "open sesame")).status == 429
        other = "192.0.2.8"
        assert (await get(served, second.token, "open sesame", address=other)).reply == b"what is in it"


async def test_links_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.service.links.MAX_LINKS", 1)
    async with serving(tmp_path, Limits(quota_bytes=2**24)) as served:
        drive = await a_drive(served)
        await drive.make_directory(10, b"folder")
        await make(served, drive.start + 10)
        another = links.CreateLinkRequest(inode=InodeId(drive.start + 10))
        assert (await served.post(routes.CREATE_LINK, another)).problem() == "too_large"


async def test_a_link_gives_only_what_its_maker_sees(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(quota_bytes=2**24)) as anna:
        await anna.services.accounts.add_user("bert", "correct horse")
        bert = await anna.log_in_as("bert")
        owner = await a_drive(anna)
        await a_drive(bert)
        await owner.make_directory(10, b"folder")
        root, folder, file = owner.root, InodeId(owner.start + 10), InodeId(owner.start + 20)
        owner.root = folder
        await owner.store_file(20, b"file", b"content")
        wanted = links.CreateLinkRequest(inode=file)
        assert (await bert.post(routes.CREATE_LINK, wanted)).problem() == "not_found"
        assert (await anna.post(routes.CREATE_LINK, links.CreateLinkRequest(inode=root))).problem() == "conflict"
        before = await make(anna, file)
        invite = sharing.ShareRequest(inode=folder, user="bert", role="viewer")
        info = (await anna.post(routes.SHARE, invite)).message(sharing.ShareInfo)
        await bert.post(routes.ANSWER, sharing.AnswerRequest(share=info.share, accept=True))
        assert (await bert.post(routes.CREATE_LINK, wanted)).problem() == "forbidden"
        await anna.post(routes.SHARE, sharing.ShareRequest(inode=folder, user="bert", role="editor"))
        assert (await make(bert, folder)).link.path == b"folder"
        theirs = await make(bert, file)
        assert theirs.link.path == b"folder/file"
        assert (await get(anna, before.token)).reply == (await get(anna, theirs.token)).reply == b"content"
        await anna.post(routes.UNSHARE, sharing.UnshareRequest(share=info.share))
        assert (await get(anna, theirs.token)).status == 404
        assert (await get(anna, before.token)).reply == b"content"
        place = changes.Unlink(n=30, time_ns=1, parent=folder, name=b"file", inode=file, base=changes.Base(revision=1))  # type: ignore[arg-type]
        await owner._commit(30, [place])
        assert (await get(anna, before.token)).status == 404
        assert (await anna.post(routes.CREATE_LINK, wanted)).problem() == "not_found"
        (gone,) = (await anna.post(routes.LINKS)).message(links.LinksReply).links
        assert gone.path is None


async def test_a_link_does_not_lead_to_an_older_copy_once_its_file_is_gone(tmp_path: Path) -> None:
    """A log that is rotated, and removed: what is in it before is nothing that anybody has published."""
    async with serving(tmp_path, Limits(quota_bytes=2**24)) as served:
        drive = await a_drive(served)
        log, fresh = InodeId(drive.start + 10), InodeId(drive.start + 20)
        await drive.store_file(10, b"log", b"of yesterday")
        made = await make(served, log)
        place = {"parent": drive.root, "name": b"log", "time_ns": 1}
        aside = changes.Rename(n=OpNumber(15), inode=log, new_parent=drive.root, new_name=b"log.1", **place)
        await drive._commit(15, [aside])
        assert (await get(served, made.token)).reply == b"of yesterday"
        await drive.store_file(20, b"log", b"of today")
        assert (await get(served, made.token)).reply == b"of today"
        base = changes.Base(revision=RevisionNumber(2))
        gone = await drive._commit(30, [changes.Unlink(n=OpNumber(30), inode=fresh, base=base, **place)])
        assert [each.status for each in gone.results] == [changes.Status.OK]
        assert (await get(served, made.token)).status == 404


async def test_a_folder_is_given_as_an_archive(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(quota_bytes=2**24)) as served:
        drive = await a_drive(served)
        await drive.make_directory(10, b"folder")
        drive.root = InodeId(drive.start + 10)
        await drive.store_file(20, b"large", LARGE)
        await drive.make_directory(30, b"inner " + b"x" * 200)
        drive.root = InodeId(drive.start + 30)
        await drive.store_file(40, b"not text \xff", b"small")
        await drive._commit(50, [drive._create(50, b"pipe", InodeKind.FIFO)])
        made = await make(served, drive.start + 10)
        reply = await get(served, made.token)
        assert reply.reply_headers["content-disposition"].endswith("folder.tar")
        with tarfile.open(fileobj=io.BytesIO(reply.reply)) as archive:
            found = {member.name: member for member in archive}
            contents = {name: archive.extractfile(found[name]) for name in found if found[name].isfile()}
            read = {os.fsencode(name): each.read() for name, each in contents.items() if each is not None}
        inner = b"folder/inner " + b"x" * 200
        assert read == {b"folder/large": LARGE, inner + b"/not text \xff": b"small"}
        assert {os.fsencode(name) for name in found} == {b"folder", inner, *read}
        assert reply.reply.endswith(bytes(1024))


async def test_nobody_publishes_a_share_by_the_folder_around_it_nor_a_viewer_by_an_older_link(tmp_path: Path) -> None:
    """[57] What may not have a link of its own is not given by another one, nor is what its owner would not see."""
    async with serving(tmp_path, Limits(quota_bytes=2**24)) as anna:
        await anna.services.accounts.add_user("bert", "correct horse")
        bert = await anna.log_in_as("bert")
        owner, member = await a_drive(anna), await a_drive(bert)
        await owner.make_directory(10, b"folder")
        folder, file, box = InodeId(owner.start + 10), InodeId(owner.start + 20), InodeId(member.start + 10)
        owner.root = folder
        await owner.store_file(20, b"file", b"content")
        invite = sharing.ShareRequest(inode=folder, user="bert", role="editor")
        info = (await anna.post(routes.SHARE, invite)).message(sharing.ShareInfo)
        await bert.post(routes.ANSWER, sharing.AnswerRequest(share=info.share, accept=True))
        await member.make_directory(10, b"box")
        place = {"parent": member.root, "name": b"folder", "new_parent": box, "new_name": b"folder"}
        moved = changes.Rename(n=11, time_ns=1, inode=folder, **place)  # type: ignore[arg-type]
        assert [each.status for each in (await member._commit(11, [moved])).results] == [changes.Status.OK]
        around, direct = await make(bert, box), await make(bert, file)
        archives = [await get(bert, around.token)]
        await anna.post(routes.SHARE, sharing.ShareRequest(inode=folder, user="bert", role="viewer"))
        archives.append(await get(bert, around.token))
        for archive in archives:
            assert (archive.status, b"folder" in archive.reply, b"content" in archive.reply) == (200, False, False)
        assert (await get(bert, direct.token)).status == 404
        await anna.post(routes.SHARE, sharing.ShareRequest(inode=folder, user="bert", role="editor"))
        assert (await get(bert, direct.token)).reply == b"content"


async def test_what_is_shared_has_its_name_in_links_to_it_as_before(tmp_path: Path) -> None:
    """For its owner and for those with whom it is shared, who may have moved it."""
    async with serving(tmp_path, Limits(quota_bytes=2**24)) as anna:
        await anna.services.accounts.add_user("bert", "correct horse")
        bert = await anna.log_in_as("bert")
        owner, member = await a_drive(anna), await a_drive(bert)
        await owner.make_directory(10, b"folder")
        await owner.store_file(20, b"letter.txt", b"content")
        await member.make_directory(10, b"mine")
        for number, name, moved in ((10, b"folder", b"theirs"), (20, b"letter.txt", b"read.me")):
            invite = sharing.ShareRequest(inode=InodeId(owner.start + number), user="bert", role="editor")
            info = (await anna.post(routes.SHARE, invite)).message(sharing.ShareInfo)
            await bert.post(routes.ANSWER, sharing.AnswerRequest(share=info.share, accept=True))
            place = {"parent": member.root, "name": name, "inode": InodeId(owner.start + number), "time_ns": 1}
            new = {"new_parent": InodeId(member.start + 10), "new_name": moved}
            await member._commit(20 + number, [changes.Rename(n=20 + number, **place, **new)])  # type: ignore[arg-type]
            for who, path in ((anna, name), (bert, b"mine/" + moved)):
                made = await make(who, owner.start + number)
                assert made.link.path == path
                given = (await get(anna, made.token)).reply_headers["content-disposition"]
                assert f'filename="{path.rpartition(b"/")[2].decode()}' in given


async def test_who_owns_what_is_shared_sees_and_ends_the_links_that_others_made_to_it(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(quota_bytes=2**24)) as anna:
        for name in ("bert", "carl"):
            await anna.services.accounts.add_user(name, "correct horse")
        bert, carl = await anna.log_in_as("bert"), await anna.log_in_as("carl")
        owner, member = await a_drive(anna), await a_drive(bert)
        await a_drive(carl)
        await owner.make_directory(10, b"folder")
        await member.store_file(10, b"private", b"of bert alone")
        folder, file = InodeId(owner.start + 10), InodeId(owner.start + 20)
        owner.root = folder
        await owner.store_file(20, b"file", b"content")
        for user in ("bert", "carl"):
            invite = sharing.ShareRequest(inode=folder, user=user, role="editor")
            info = (await anna.post(routes.SHARE, invite)).message(sharing.ShareInfo)
        for who in (bert, carl):
            await who.post(routes.ANSWER, sharing.AnswerRequest(share=info.share, accept=True))
        direct, private = await make(bert, file), await make(bert, member.start + 10)
        await make(bert, file, expires_ns=1)

        async def listed(who: Served) -> list[tuple[int, bytes | None, str]]:
            found = (await who.post(routes.LINKS)).message(links.LinksReply).links
            return [(each.link, each.path, each.user) for each in found]

        async def revoked(who: Served, made: links.LinkReply) -> Request:
            return await who.post(routes.REVOKE_LINK, links.RevokeLinkRequest(link=made.link.link))

        assert await listed(anna) == [(direct.link.link, b"folder/file", "bert")]
        assert await listed(carl) == []
        for who, made in ((carl, direct), (anna, private)):
            assert (await revoked(who, made)).problem() == "not_found"
        await anna.post(routes.SHARE, sharing.ShareRequest(inode=folder, user="bert", role="viewer"))
        assert await listed(anna) == [], "it gives nothing"
        await anna.post(routes.SHARE, sharing.ShareRequest(inode=folder, user="bert", role="editor"))
        assert (await revoked(anna, direct)).status == 200
        assert ((await get(bert, direct.token)).status, await listed(anna)) == (404, [])
        assert await listed(bert) == [(private.link.link, b"private", "")]
