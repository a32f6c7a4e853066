"""The commands of `drivefs`: one module for each, and what they share; nothing here is imported from below."""
