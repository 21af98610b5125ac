"""Files here that need Ray run in a namespace; outside of it only test_ray.py is seen, which makes one."""

from __future__ import annotations

from support.ray_serve import is_inside

OUTSIDE = ["test_ray.py"]
INSIDE = ["test_one_node.py", "test_contract.py", "test_keys.py", "test_faults.py", "test_cluster.py"]
collect_ignore = OUTSIDE if is_inside() else INSIDE
