"""Faults inside the program: what an armed point does, in the process that reaches it.

:mod:`grammar` reads what is to be done and :mod:`program` decides at which hit; :mod:`files` is what is said from
outside and :mod:`answer` what the process says back; :mod:`armed` brings them together, :mod:`acting` and
:mod:`corrupting` do it, :mod:`functions` makes any dotted function a point, :mod:`scope` keeps it to test traffic.
"""
