"""One commit: what it loads, how it judges each mutation, and what it writes.

`rows` are the values, `validity`, `batch` and its parts decide in memory and know no SQL, `loading` and `writing` are
the two ends at the database.
"""
