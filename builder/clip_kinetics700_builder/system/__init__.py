"""The operating system: whole files and locks, threads, cores and memory, signals, progress.

It knows no clip and imports nothing of ours but `types`, and no video or model library. Others use
most: `files.atomic_path`, `files.write_json`, `files.hash_file`, `locks.hold_lock`,
`threads.share_rows`, `threads.work_off`, `machine.count_cores`, `signals.catch_signals`,
`progress.Progress`, `progress.track_progress`.
"""
