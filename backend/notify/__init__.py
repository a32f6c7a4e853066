"""Wake-ups between those who change and those who wait; hints, never truth."""
