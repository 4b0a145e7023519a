"""The fleet's report: one HTML file that needs nothing else."""
