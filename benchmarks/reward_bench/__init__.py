"""Benchmarks: what the service does beside the bare path, each figure a ratio measured in one run."""
