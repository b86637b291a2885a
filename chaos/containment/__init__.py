"""Did the failure stay where it should? Boundaries, SLOs, the verdict over them, and how sure it is."""
