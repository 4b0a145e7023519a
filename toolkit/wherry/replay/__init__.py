"""History as if devices had sent it: the agent's own scoring and counting, the server's own ingest.

Rows of a table are scored and counted into windows by `wherry_agent`, go through the ingest into
a store, and are judged bucket by bucket, as somebody would have seen them who looked every day.
"""

from .history import History
from .run import Alarm, Replayed, replay

__all__ = ["replay", "History", "Replayed", "Alarm"]
