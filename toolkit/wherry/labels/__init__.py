"""Labels that come weeks later: read where they are, counted on the spot, sent as counts."""

from .counts import LabelBatch, LabelRow
from .read import Found, read_labels

__all__ = ["Found", "LabelBatch", "LabelRow", "read_labels"]
