"""Verification: a dataset directory comes in, a list of everything that is wrong with it goes out.

It trusts only the manifest, which it checks first. Nothing here may import a writer of the data,
but for the text of splits.csv, or a video library. Others use `dataset.verify_dataset`.
"""
