"""The Hugging Face Hub: a finished dataset is published there, a repository is fetched from there.

The only room that imports huggingface_hub to write, and the card's header to spell its YAML.
Others use `push.push`, `snapshot.find_repository` and `snapshot.fetch_snapshot`.
"""
