"""Memory that FLARE leaves behind, given back after every message.

In 2.9.0 each message that a process sends holds a buffer of 1 MiB in a cycle of references, which Python frees at its
next full collection: in a process that has loaded torch that is after hundreds of messages, and of megabytes. A full
collection is cheap once what is there from the start is left out of it.
"""

from __future__ import annotations

import gc


def leave_out_what_is_there() -> None:
    """Whatever was made so far stays, and is not looked through again. Once everything is loaded."""
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Free what only cycles of references hold. After a message, or several."""
    gc.collect()
