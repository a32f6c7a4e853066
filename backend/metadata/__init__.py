"""Where the metadata lies: tables, transactions and migrations; no rules."""
