"""POSIX semantics over local state: names, files, handles and attributes; knows neither the kernel nor the network."""
