"""The report of a verdict: one HTML file that holds everything it shows."""
