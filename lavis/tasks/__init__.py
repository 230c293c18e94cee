"""Home of `python -m lavis.tasks.run`."""
