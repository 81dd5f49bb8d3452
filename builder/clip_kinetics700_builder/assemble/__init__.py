"""Assembly: the results of encoding, in the order of their plan, become the published layout.

Finished parts, a processed dataset or the rows of a conversion come in; tars, Parquet files, index,
card and manifest go out, the same bytes every time. Nothing here may import torch: assembly takes
less memory than loading it. Others use `assemble.assemble`, `assemble.assemble_directory`,
`part_rows.PartRows` and `rows.Rows`.
"""
