"""The safety steps of drivefs, each with what the code would be without it and the tests that must fail then."""
