"""Gets clips of Kinetics into a directory, from source after source, and records what came of each.

A `DownloadConfig` comes in; files under `SPLIT/CLASS/`, a `metadata.jsonl` for each split and a
ledger go out. torch and the rooms that decode and encode must not be imported here, and yt-dlp by
nothing but `youtube`. Others use `download.download`, `download.plan_download` and
`run.DownloadSummary`.
"""
