"""How many examples Hypothesis tries: those that a test has by itself, as many times as `--examples` says."""

from hypothesis import settings

USUAL = 100
"""So many are tried where a test says nothing of it, and `--examples` neither."""


def examples(usual: int) -> int:
    """The number of examples of a test that has `usual` ones if nothing is said of it."""
    return usual * settings().max_examples // USUAL
