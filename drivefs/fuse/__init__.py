"""The kernel's side: pyfuse3 operations over `drivefs.fs`, and what has to be told to the kernel. Owns no semantics."""
