"""Keeps what is finished on disk: the results of parts go in, and come out for assembly.

Whoever encodes stores its decisions with `work.store_work`, and parts with `part.write_results` and
`part.finish_part`. Assembly reads them with `part_reader`, judging encoders by `canary`; `retries`
plans what is tried again. Neither engines nor the published layout may be imported here.
"""
