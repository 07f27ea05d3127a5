"""Ablations: the plan of one, when its runs end early, what it costs, and what it shows."""
