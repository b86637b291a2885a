"""A testbed: nodes on one machine, each with a network, a host name and control groups of its own, as root or not.

::

    from aiobs.chaos.testbed import Testbed

    with Testbed(3) as bed:
        server = bed["a"].start(["python", "-m", "http.server", "8000"])
        bed["b"].run(["curl", "http://a:8000/"])

Nothing of it is in the machine's own network, and all of it ends with the process that made it, however that ends.
"""

from __future__ import annotations

from aiobs.chaos.testbed.bed import Testbed
from aiobs.chaos.testbed.node import Node

__all__ = ["Node", "Testbed"]
