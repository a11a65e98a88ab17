"""The service: an HTTP API over videos, answers, jobs and watches; `r2rt serve` runs it.

`app.py` makes the application of a `Service` (`service.py`), which holds one of each: `database.py`
and what it keeps (`videos.py`, `jobs/store.py`, `tokens.py`), `computing.py` (what needs a model;
`ray_serve.py` does it in replicas), `models.py` (loaded on demand, unloaded when idle),
`answers.py` (queries that arrive together are answered in one call),
`jobs/runner.py` (work in threads), `hub.py` (events for listeners). `routes/` has the
addresses, `guard.py` what every request passes first.
"""

from __future__ import annotations
