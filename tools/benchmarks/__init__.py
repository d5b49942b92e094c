"""What tools/benchmark.py measures beside the loop, a file each."""
