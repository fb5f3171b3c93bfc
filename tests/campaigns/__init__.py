"""Long runs of what the tests do a small share of: ``python -m tests.campaigns.NAME [number]``."""
