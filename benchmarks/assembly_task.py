"""This program assembles finished parts once and prints how long that took.

`benchmarks.assembly` runs it as `python -m benchmarks.assembly_task WORK OUTPUT`. It prints one
line of JSON: seconds of the imports, of opening all parts and of assembling them.
"""

import json
import sys
import time
from pathlib import Path


def main() -> None:
    """Assemble once and print how long that took."""
    work, output = map(Path, sys.argv[1:])
    begin = time.perf_counter()
    from clip_kinetics700_builder.assemble.assemble import assemble
    from clip_kinetics700_builder.assemble.part_rows import PartRows
    from clip_kinetics700_builder.config import AssembleConfig

    imported = time.perf_counter()
    rows = PartRows(work)
    opened = time.perf_counter()
    manifest = assemble(rows, AssembleConfig(source=work, output=output))
    took = {
        "import_seconds": imported - begin,
        "open_seconds": opened - imported,
        "assemble_seconds": time.perf_counter() - opened,
    }
    print(json.dumps({**took, "samples": manifest.totals.samples}))


if __name__ == "__main__":
    main()
