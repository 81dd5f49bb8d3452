"""Reading: any dataset that the reader opens becomes a stream of rows, damaged ones included.

What `index`, `info`, `convert` and `evaluate` share. Nothing here writes but the index. Others use
`rows` (`open_source`, `prepare_rows`, `read_rows`), `info.describe_source` and
`index.index_source`.
"""
