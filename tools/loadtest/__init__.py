"""A load test of the server; see tools/load_test.py."""
