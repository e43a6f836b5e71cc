"""Set up before torch is imported: threads that wait must not spin, which costs dearly beside other work."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
