"""How long a test waits for another process: no bound on speed, but less than for ever."""

PATIENCE = 1200.0  # seconds; pytest itself gives up after 1500, see pyproject.toml
