"""The artifact store: immutable objects named by the hash of their bytes, and who needs them.

Values too large for messages and the parts of collections lie here; messages carry references.
The layout is that of `crates/connect/src/artifacts.rs`, the same in a folder and under a bucket's
prefix:

- `objects/<first two hex digits>/<sha256>`: the objects.
- `refs/<run>/<sha256>`: an empty mark says that the run needs the object.
- `cache/<key>`: results that may be used again.

Objects never change, so any number of processes may use a store at once. What nobody needs any more
is collected by `tidemill gc`, never here.
"""

from .collection import Collection
from .store import Artifacts

__all__ = ["Artifacts", "Collection"]
