"""LIBERO's own five suites: tasks, initial states, assets and protocol."""
