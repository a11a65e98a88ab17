"""What is kept between runs, all of it under one folder that may be deleted at any time.

`graphs` holds the graphs as optimised for this machine, `verified` which bundles were compared with
their hashes; `r2rt.grounding.encoding_cache` keeps encoded videos here too. None of it is needed:
what is missing is made again.
"""

from __future__ import annotations

from r2rt.cache.folder import cache_dir

__all__ = ["cache_dir"]
