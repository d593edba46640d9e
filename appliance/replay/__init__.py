"""Replays, verdicts and differences: what was computed again, compared with what, and judged."""
