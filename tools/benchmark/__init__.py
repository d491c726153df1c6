"""The rooms of tools/bench.py: settings, subprocesses, what is measured, and the report."""
