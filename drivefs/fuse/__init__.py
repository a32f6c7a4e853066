"""The kernel's side of the mount: pyfuse3 is known here and nowhere else. Imports nothing of it by itself."""
