"""What a source says of itself is read once."""

from pathlib import Path

from clip_kinetics700_builder.config import SourceConfig
from clip_kinetics700_builder.read.rows import open_source, read_own_manifest
from tests.support.damage.datasets import make_dataset
from tests.support.hub.servers import serve


def test_a_remote_manifest_costs_one_request(tmp_path: Path) -> None:
    """The bytes that tell whose manifest it is are those that are checked."""
    dataset = make_dataset(tmp_path)
    with serve(dataset) as served:
        layout = open_source(SourceConfig(source=served.url)).layout
        served.forget()
        manifest = read_own_manifest(layout)
        assert manifest is not None
        assert manifest.width == layout.width
        assert [request.path for request in served.requests] == ["/manifest.json"]
