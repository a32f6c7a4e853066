"""The HTTP side: requests to service calls, results and refusals to replies; no rules."""
