"""Kinds of targets; see :mod:`aiobs.chaos.target`. One file each."""
