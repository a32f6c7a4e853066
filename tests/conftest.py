"""What all tests share: how Hypothesis runs. Owns no fixtures; those live beside the tests that use them.

Timing never decides a test: deadlines are off, since a loaded machine is not a bug.
"""

from hypothesis import HealthCheck, settings

settings.register_profile("drivefs", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("drivefs")
