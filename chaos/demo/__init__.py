"""The demo: a service and a training job on one machine, faults in turn, and a verdict on each (``aiobs demo``)."""
