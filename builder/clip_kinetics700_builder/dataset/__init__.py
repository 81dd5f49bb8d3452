"""The published layout as a promise: what a dataset's files are called and what its manifest says.

The rooms above hand in counts and written files and get back a typed `Manifest`; whoever reads a
dataset gets it from `manifest.read_manifest`. Nothing here decodes, encodes or talks to a network.
Others use `manifest` (`Manifest`, `read_manifest`, `require_manifest`, `make_manifest`), `shards`
(`Shard`, `plan_shards`), `totals` (`Totals`), `layout` and `problems`.
"""
