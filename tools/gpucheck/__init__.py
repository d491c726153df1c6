"""The rooms of tools/gpu_check.py: settings, what is verified and measured, and the report."""
