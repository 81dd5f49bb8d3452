"""Writes a small dataset whose classes are the same shots in different orders.

The mean of a clip's frames says nothing of its class there, and the order of its frames says all.
"""

from pathlib import Path

import numpy as np

from clip_kinetics700.texts import ClassTexts
from clip_kinetics700_builder.assemble.assemble import assemble_directory
from clip_kinetics700_builder.config import AssembleConfig
from clip_kinetics700_builder.dataset.manifest import require_manifest
from clip_kinetics700_builder.evaluate.class_texts import SAME_WEIGHTS, publish, read_prompts

N_CLASSES = 6
N_SHOTS = 6
WIDTH = 512
CLIPS_PER_CLASS = {"train": 200, "val": 50}


def write_ordered_clips(directory: Path) -> Path:
    """Write the clips into a directory, assemble them there, and return the dataset's place.

    Its class texts are directions at random: what clips have to do with them must be learned.
    """
    rng = np.random.default_rng(0)
    shots = rng.standard_normal((N_SHOTS, WIDTH))
    orders = [rng.permutation(N_SHOTS) for _ in range(N_CLASSES)]
    names = [f"order {' '.join(map(str, order))}" for order in orders]
    processed, output = directory / "processed", directory / "dataset"
    for split, n_clips in CLIPS_PER_CLASS.items():
        (processed / split).mkdir(parents=True, exist_ok=True)
        for number in range(n_clips * N_CLASSES):
            order = orders[number % N_CLASSES]
            # How long a shot is does not depend on the class, or the mean would tell.
            clip = np.repeat(shots[order], rng.integers(1, 3, N_SHOTS), axis=0)
            clip += rng.standard_normal(clip.shape)
            stem = processed / split / f"clip_{number:05d}"
            np.save(stem.with_suffix(".npy"), clip.astype(np.float16))
            stem.with_suffix(".txt").write_text(names[number % N_CLASSES], encoding="utf-8")
    class_list = directory / "classes.txt"
    class_list.write_text("\n".join(names) + "\n", encoding="utf-8")
    assemble_directory(AssembleConfig(source=processed, output=output, class_list=str(class_list)))
    rows = np.linalg.qr(rng.standard_normal((WIDTH, N_CLASSES)))[0].T.astype(np.float32)
    texts = ClassTexts(tuple(names), rows, read_prompts(None), "random", "", SAME_WEIGHTS)
    publish(output, require_manifest(output), texts)
    return output
