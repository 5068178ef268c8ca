"""Recurring marks of a data set: watermarks, tags, logos and stamps.

The search needs no model. `candidates`, `interventions` and `cue` test on a model whether it uses a
mark. The public names are those of `semattn.spurious`.
"""
