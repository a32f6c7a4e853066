"""drivefs: a cloud drive that is a real directory."""

__version__ = "0.1.0"
