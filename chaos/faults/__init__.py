"""Faults, one small file each; see :mod:`aiobs.chaos.fault`."""
