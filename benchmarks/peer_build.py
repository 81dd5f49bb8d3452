"""This script of `datasets` makes the same embeddings in the plain way that many use.

Run as `python -m benchmarks.peer_build VIDEOS MODEL OUTPUT.parquet`; it prints the number of clips
and the seconds, without the imports and the loading of the model.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Video, disable_progress_bars
from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection


def main(videos: str, model_directory: str, output: str) -> None:
    """Encode the videos of a directory at one frame a second, in float32."""
    disable_progress_bars()
    load: Any = CLIPVisionModelWithProjection.from_pretrained
    model, processor = load(model_directory), CLIPImageProcessorPil.from_pretrained(model_directory)

    def embed(row: dict[str, Any]) -> dict[str, Any]:
        video = row["video"]
        seconds = [float(second) for second in range(int(video.metadata.duration_seconds))]
        frames = video.get_frames_played_at(seconds).data
        inputs = processor(images=list(frames.numpy()), return_tensors="pt")
        with torch.no_grad():
            return {"embeddings": model(**inputs).image_embeds.half().numpy()}

    begin = time.perf_counter()
    paths = [str(path) for path in sorted(Path(videos).iterdir())]
    dataset = Dataset.from_dict({"video": paths}).cast_column("video", Video())
    dataset.map(embed, remove_columns=["video"]).to_parquet(output)
    seconds = time.perf_counter() - begin
    sys.stdout.write(json.dumps({"clips": len(paths), "seconds": seconds}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
