"""Why the metadata cannot be used.

MetadataError
 +-- LibraryTooOld   the SQLite library has a known bug that loses data
 +-- NewerSchema     the database was written by a newer drivefs-server
 +-- Unreadable      SQLite says that it is no database, or damaged, or cannot be read now
"""


class MetadataError(Exception):
    """The metadata database cannot be used; nothing in it was changed."""


class LibraryTooOld(MetadataError):
    """The SQLite library has a known bug that can lose commits."""


class NewerSchema(MetadataError):
    """The database has a schema that this program does not know."""


class Unreadable(MetadataError):
    """SQLite cannot open the database, or has met a damaged page."""
