"""Audits of data sets: every image explained and analysed, in shards, by one process or many.

What is done lies on the disk, unit by unit; a run that was stopped, or that shares the work with
others, makes the same tables in the end. Knows nothing of pages and pictures.
"""

from ..data.sources import Source, open_source
from .audit_runner import JOBS, Audit
from .run import audit, check_jobs

__all__ = ["JOBS", "Audit", "Source", "audit", "check_jobs", "open_source"]
