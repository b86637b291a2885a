"""Processes that keep a fault going: a proxy, a duty cycle, a storm. See :mod:`aiobs.chaos.operations.worker`."""
