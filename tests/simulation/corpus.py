"""Runs that went wrong once, each with what was the matter: they are run again each time.

A seed names a run only as long as programs and faults are drawn as they were: what it showed is told in words too, and
wherever it can be shown by a small test, there is one.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run; `clients` and `operations` 0: the profile's."""

    name: str
    seed: int
    profile: str
    clients: int = 0
    operations: int = 0


CORPUS = (
    # The database was lost after it had recorded blocks, and the server removed the objects in which they lay.
    Case(name="recorded-blocks-were-removed", seed=53, profile="server"),
    # The store did not show an object for a while, and its only copy counted as lost ever after.
    Case(name="a-block-that-was-not-to-be-seen-was-lost", seed=1, profile="server"),
    # A disk was put back to an earlier moment of the same mount, and ids were given out that the feed had brought.
    Case(name="ids-of-a-mount-that-was-rolled-back", seed=9, profile="rollbacks"),
    # The disk was full for a while, and the whole block cache counted as empty from then on, with what was pinned.
    Case(name="a-full-disk-made-the-cache-forget", seed=20005, profile="cache"),
    # The disk was put back too, and the check of the other device found a state in its overlay that no change needed.
    Case(name="an-overlay-that-nothing-needed", seed=2, profile="rollbacks"),
    # A power cut took the first page of the feed too, and the oracle failed at a device that knew no cursor.
    Case(name="a-device-whose-cursor-was-gone", seed=40047, profile="mixed"),
    # An edit met a file that was written over and then replaced: it came back as it was in between, beside the edit.
    Case(name="brought-back-what-was-written-over", seed=40019, profile="network"),
    # A power cut took all that was written to a file; it was published all the same, against what another wrote.
    Case(name="a-draft-of-which-nothing-was-left", seed=40061, profile="mixed"),
    # The sync that a disk was to fail was that of an unmount, and the run ended with it.
    Case(name="an-unmount-whose-sync-failed", seed=50025, profile="mixed"),
    # A program read what it was about to remove, and the name led to another file when it did: that one was missed.
    Case(name="a-name-that-was-exchanged-before-it-was-removed", seed=51099, profile="crashes"),
    # Two names of one file were replaced by two devices: the later one was refused, and made a conflict copy.
    Case(name="both-names-of-a-file-were-replaced", seed=51120, profile="mixed"),
    # A file was brought back for an edit that followed in a later commit: the oracle took what it was for the copy.
    Case(name="brought-back-before-its-edit", seed=51048, profile="network"),
    # A replica that had just begun was looked at before its root was listed: the oracle took the stand-in for a state.
    Case(name="a-root-before-it-is-listed", seed=70522, profile="mixed"),
    # What a killed process had staged was lost in a power cut, after the next process had synced the file.
    Case(name="staged-by-a-process-that-was-killed", seed=70157, profile="mixed"),
    # The sync of the replica failed alone, and nobody mounted that device again: it never came to rest.
    Case(name="a-replica-whose-sync-failed", seed=70662, profile="disk"),
    # A removed file that was open and written came back from elsewhere, and was cut to the size that it had there.
    Case(name="cut-to-the-size-that-it-came-back-with", seed=60094, profile="server"),
    # A power cut left a gap in the log of a journal; it was closed, and a draft was there again without its records.
    Case(name="a-gap-in-the-log", seed=70641, profile="crashes"),
    # What a save was to replace a file by was removed elsewhere on its way: it came back beside the file, as a copy.
    Case(name="a-save-whose-new-content-was-removed", seed=70686, profile="server"),
    # One name of an open file was replaced elsewhere, the other one here: what was written over came back as a copy.
    Case(name="written-over-under-the-last-name", seed=70746, profile="network"),
    # A store whose blocks were gone was given up, and what had been sent behind it waited for its answer for ever.
    Case(name="what-was-sent-behind-a-store-that-is-given-up", seed=120, profile="history"),
    # A block of what is pinned had rotted, was read, and dropped until it was fetched again: the oracle missed it.
    Case(name="rot-in-what-is-pinned", seed=90044, profile="cache"),
    # What was mounted again at rest had nothing open any more, and a later turn of its programs closed it once more.
    Case(name="closed-after-another-mount", seed=90126, profile="turns"),
    # Content stood on a file that the trash had let go, and that was not known here any more: it asked without end.
    Case(name="written-on-what-the-trash-let-go", seed=90057, profile="history"),
    # A file was moved to a name on both devices, by one of them after a save: the oracle took it for a known content.
    Case(name="a-known-content-under-a-name-that-was-not-known", seed=92004, profile="network"),
    # A power cut took the list of shares and left what was heard: a device forgot the share, and did not list it anew.
    Case(name="a-share-that-was-forgotten-after-it-was-heard-of", seed=133, profile="shares"),
    # What was removed before its folder was shared was told to members who asked by its id.
    Case(name="what-was-removed-before-it-was-shared", seed=124, profile="shares"),
    # Blocks of what was removed from a folder before it was shared were given to members who knew their ids.
    Case(name="blocks-of-what-was-removed-before-it-was-shared", seed=155, profile="shares"),
    # The disk was full while a file was saved over a shared one that nobody had open: it showed zeros from then on.
    Case(name="a-shared-file-that-could-not-be-saved", seed=200010, profile="shares"),
    # A file was moved away and shared by itself; what was saved under its name went on with its history, as it did.
    Case(name="a-history-that-two-files-went-on-with", seed=300026, profile="shares"),
    # A temporary file was exchanged with one that was open: others were shown it under its temporary name meanwhile.
    Case(name="exchanged-with-what-is-open", seed=300041, profile="rules"),
    # Two names were exchanged on both devices, by one of them after a save: the oracle heard of no name that was given.
    Case(name="names-that-both-exchanged", seed=400007, profile="tidy"),
    # The server was put back to when a file that was moved away since had its name: what has it now went over it.
    Case(name="moved-away-in-a-history-that-was-lost", seed=400208, profile="restores"),
    # A device showed what it knew of a lost history until it was listed anew: the oracle took it for what is now.
    Case(name="shown-until-it-is-listed-anew", seed=400024, profile="restores"),
    # What a file had next was gone, and so it counted as having left at once a history of which a snapshot showed it.
    Case(name="what-a-snapshot-shows-of-a-history-that-was-left", seed=300021, profile="history"),
    # A file was removed in a history that was lost; the number that its content had there is another one's now.
    Case(name="removed-by-a-number-that-was-given-anew", seed=400314, profile="restores"),
    # What was known of a lost history was taken for what the server has: a lost content was there already, it seemed.
    Case(name="taken-for-what-the-server-has", seed=400318, profile="restores"),
    # A directory went elsewhere with an ignored file in it: the oracle did not wait until that was kept aside.
    Case(name="an-ignored-file-whose-directory-went", seed=600014, profile="rules"),
    # An ignored file was exchanged into the drive and removed at once: made and replaced in one commit, it was no leak.
    Case(name="made-and-replaced-in-one-commit", seed=700006, profile="rules"),
    # A directory got another id, since the server that was put back had it, and was then found to be that one: each
    # was taken for the other.
    Case(name="two-directories-each-the-other", seed=700012, profile="restores"),
    # A file of the drive was moved to a name that devices keep, and written elsewhere: the copy of that was no leak.
    Case(name="a-conflict-copy-under-a-name-that-devices-keep", seed=514, profile="tools", clients=4),
    # Two files were cut to the same bytes: the oracle took what one of them had been for what the other's writer knew.
    Case(name="two-files-cut-to-the-same-bytes", seed=600028, profile="sizes"),
    # A creation was made again behind what was to happen to its file: the removal was dropped, and it waited for ever.
    Case(name="a-creation-behind-what-happens-to-it", seed=10, profile="asides"),
    # A file was shared, taken back, shared again and taken back before a member heard of it: its name came without a
    # state, and led to what the member had known of it in the earlier time.
    Case(name="a-name-from-a-share-that-came-and-went", seed=810001, profile="shares"),
    # A server that was put back no longer knew the ids that a device had, and nothing but refusals told: each of the
    # thousands of its range was tried.
    Case(name="ids-that-the-server-does-not-know-of", seed=880001, profile="restores"),
    # What a device had changed of a content was put over another one, which the server had lost.
    Case(name="changed-of-one-content-and-put-over-another", seed=890027, profile="restores"),
    # What was made again after a loss was being sent before all was compared: its sending came to nothing, and nothing
    # else did.
    Case(name="sent-before-all-was-compared", seed=1000080, profile="restores"),
    # A directory got the name of an ignored file of another device, which kept something in it: covered, and not lost.
    Case(name="kept-behind-a-name-that-is-kept", seed=1000325, profile="rules"),
    # A directory lost its ignored name by an exchange: what was made in it afterwards stayed on that device.
    Case(name="a-directory-exchanged-with-a-file", seed=1001530, profile="rules"),
    # All of a small file was written over while another descriptor had seen an older content: for all that the kernel
    # says it was a page of a map of that one, and so it was taken for a change of the older.
    Case(name="all-of-a-file-beside-a-descriptor-that-lags", seed=2000356, profile="shares"),
    # A file was taken back to an earlier content while a program waited for bytes of it, which wrote over that then.
    Case(name="taken-back-while-bytes-are-waited-for", seed=1001107, profile="history"),
    # The store gave damaged bytes, and then none for a moment: what was written on a content that was superseded was
    # given up without the rest of the file.
    Case(name="given-up-for-a-base-that-was-there", seed=2000668, profile="mixed", clients=4),
    # A directory was brought back under a name that an ignored file had here by then, and that was nowhere any more.
    Case(name="brought-back-over-an-ignored-file", seed=1000733, profile="tools"),
    # The base of a conflict was let go, and another revision had the same content: the oracle missed it.
    Case(name="a-base-that-was-let-go-with-the-content-of-another", seed=1000476, profile="tidy"),
    # What was written to a file before it was removed stood on a lost content, whose number is another one's now.
    Case(name="written-to-a-removed-file-of-a-lost-history", seed=2001279, profile="restores"),
    # All was at rest before a device had let go of a save: the oracle missed the number that the history had given it.
    Case(name="at-rest-before-a-save-was-let-go-of", seed=1001371, profile="server"),
    # A share went and came again while a folder of it was being listed as of before: what was in it was not shown.
    Case(name="listed-as-of-an-earlier-time-in-a-share", seed=1001550, profile="shares"),
    # A file was made and removed in one commit: the oracle looked for it in the trash.
    Case(name="made-and-removed-in-one-commit", seed=3000493, profile="tidy"),
    # One name of an edited file was replaced here, and the other one had gone elsewhere: the copy of the edit was taken
    # for one of what had been replaced, though it had that other name here until then.
    Case(name="replaced-under-one-of-its-names", seed=4000126, profile="tools"),
    # A file of the drive that had been moved to a name which devices keep was rewritten and removed elsewhere, and
    # edited here: what was made anew for the edit, with that name, was taken for a leak.
    Case(name="made-anew-under-a-name-that-devices-keep", seed=5004940, profile="tools"),
    # A file with two names was moved aside under one of them, and the other one removed: taken for a step of saving,
    # what was aside was removed for all others, and the name that had been removed was theirs still.
    Case(name="another-name-of-what-is-aside-was-removed", seed=5003616, profile="tools", clients=4),
    # A file was moved back over what had come of its content, and another device had just edited that: the oracle took
    # the copy for one of what its opponent's writer knew of.
    Case(name="moved-back-over-what-came-of-it", seed=3000293, profile="network", clients=3),
    # A power cut took what was not synced of a file on its way, and the server let its blocks go while the device was
    # away: its store waited for ever, and all behind it.
    Case(name="on-its-way-and-nowhere-any-more", seed=4000506, profile="history"),
    # A directory was removed while its listing was on its way: it was known here for ever, and what was made in it was
    # refused, made again, and refused.
    Case(name="removed-while-its-listing-was-on-its-way", seed=3000793, profile="quotas"),
    # What a put-back server had lost was made anew, and the move by which it had replaced a file that was never sent
    # was forgotten: that file waited for its removal for ever.
    Case(name="lost-after-it-was-moved-over-a-new-file", seed=6000599, profile="restores", clients=4),
    # The same with an exchange and with a name that had gone to another file: what happened to that one was forgotten.
    Case(name="lost-with-what-happened-to-another-one", seed=5004895, profile="restores"),
    # A removal of a file that the server had lost removed what had the id and the number of its revision anew.
    Case(name="removed-by-an-id-given-anew", seed=5004180, profile="restores", clients=4),
    # A content in use was taken for another one, as long, that had its number after the server was put back.
    Case(name="a-content-with-the-number-of-a-lost-one", seed=6001183, profile="restores", clients=4),
    # A directory that was taken for another one was there again, and went on being that one, which was not.
    Case(name="a-directory-there-again-and-not-itself", seed=5000683, profile="restores"),
    # A lost directory was to go over a file of its name, and all devices made their own beside it.
    Case(name="a-directory-over-a-file", seed=6002986, profile="restores", clients=4),
    # A device set a lost history aside and was killed before it heard where the new one stands: its cursor was none.
    Case(name="killed-between-two-histories", seed=5004879, profile="restores"),
    # A removed file that was open here, with changes, came back with those of another device: it was removed again, by
    # its name, and what nobody here had read of it went too.
    Case(name="removed-when-it-came-back-and-was-not-read", seed=6005061, profile="cache"),
    # A file that was removed elsewhere was made anew under a name that it had here for a moment: what took that name
    # away took the content, though it had another name here.
    Case(name="made-anew-under-a-name-that-goes", seed=5005877, profile="tidy"),
    # A file of a pinned directory was hidden by a change of this device while its pins were walked through, and shown
    # again when that was refused: what was here of it was not protected, and evicted.
    Case(name="hidden-while-pins-were-walked-through", seed=5002058, profile="cache"),
    # A file came to a name between the look at that and the opening that empties it: no program had seen its content.
    Case(name="came-while-it-was-opened-to-be-emptied", seed=1001, profile="tools"),
    # Devices were compared before one had let go of its acknowledged change, which hid a later content.
    Case(name="compared-before-all-was-let-go-of", seed=1127, profile="tools"),
    # A member asked for the base of a copy in a share, which is of before the sharing, and not theirs to see.
    Case(name="a-base-of-before-the-sharing", seed=6001570, profile="shares"),
    # The base of a copy was let go of between the look at what is kept and the look at that copy.
    Case(name="a-base-let-go-of-meanwhile", seed=9002745, profile="tidy"),
    # A member came back to a share in which nothing had changed: what was forgotten as it came was not told to be there
    # again, and a content in use went on being that of long before.
    Case(name="came-back-as-it-was", seed=5001551, profile="shares"),
    # A share came back, and of a file that had been written here the content of an earlier time in it was shown.
    Case(name="read-as-in-an-earlier-time-in-a-share", seed=9000786, profile="shares"),
    # The same of a file that was shared by itself, and had been open when the share came for the second time.
    Case(name="a-shared-file-read-as-when-it-was-open", seed=5001551, profile="shares"),
    # The disk was full in the middle of a save over a shared file: what had been written to that and not sent was
    # emptied in memory, and published as zeros.
    Case(name="emptied-by-a-save-that-failed", seed=6001562, profile="shares"),
    # A file was written over a content of a share that ended before that was sent: its device had no room to cache that
    # content, and nobody gave it to it any more.
    Case(name="written-over-what-is-not-to-be-seen-any-more", seed=10005033, profile="shares"),
    # The same where what was cached had rotted.
    Case(name="written-over-what-rotted-and-is-not-to-be-seen", seed=9005043, profile="shares"),
    # A device that had been away heard of commits before the one that took a share from it, and of nothing in that.
    Case(name="told-of-a-share-no-more-before-it-went", seed=1090, profile="shares"),
)
