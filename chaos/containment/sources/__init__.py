"""Where telemetry comes from: while it arrives (a receiver, a run folder being written), and afterwards."""
