"""Conversion: a dataset of any dialect comes in, one of our layout goes out, verified.

It copies a remote source first and hands its rows to assembly. Nothing here may know a dialect:
that is the reader's business. Others use `convert.convert`.
"""
