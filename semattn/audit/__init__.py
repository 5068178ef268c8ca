"""Audits of data sets: every image is explained and analysed, by one or more processes.

Finished units are stored on disk; an interrupted run, or one that shares the work with other
processes, writes the same tables in the end. This package must not import `report` or
`viz`.
"""

from ..data.sources import Source, open_source
from .audit_runner import JOBS, Audit, audit, check_jobs

__all__ = ["JOBS", "Audit", "Source", "audit", "check_jobs", "open_source"]
