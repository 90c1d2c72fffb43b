"""What Headrace costs and how it compares, measured: `python -m benchmarks` lists the names."""
