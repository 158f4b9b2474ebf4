"""Models that run without torch's kernels: their parts as graphs that another engine computes."""
