"""Verification: a dataset directory comes in, a list of everything that is wrong with it goes out.

It trusts only the manifest, which it checks first, and spells samples again as assembly does.
Nothing here may write, or import a video library. Others use `dataset.verify_dataset`.
"""
