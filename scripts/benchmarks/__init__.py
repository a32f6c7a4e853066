"""The benchmark of drivefs against its ceiling and its peers; run by scripts/bench. Not part of what is installed."""
