"""A build's report: one HTML file that needs nothing else."""
