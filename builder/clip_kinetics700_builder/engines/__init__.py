"""Runs a build: options come in, and the parts of this rank are finished when it ends.

Others use `prepare.plan_job` and `prepare.prepare_engine`, what `local` and `ray` start, and
`cost` for a dry run. Nothing is assembled here, and only `ray` may import ray.
"""
