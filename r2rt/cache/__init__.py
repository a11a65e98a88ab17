"""What is kept between runs, all of it under one folder that may be deleted at any time.

`encodings` holds encoded videos, `graphs` the graphs as optimised for this machine, `verified`
which bundles were compared with their hashes. None of it is needed: what is missing is made again.
"""

from __future__ import annotations

from r2rt.cache.encodings import EncodingCache
from r2rt.cache.folder import cache_dir

__all__ = ["EncodingCache", "cache_dir"]
