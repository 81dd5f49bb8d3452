"""The features of `datasets` and the Arrow schema are one contract."""

import datasets
import pyarrow as pa
import pytest

from clip_kinetics700.features import data_schema, features_dict
from tests.support.datasets.layouts import CLASS_NAMES, make_sample


@pytest.mark.parametrize("class_names", [None, CLASS_NAMES])
def test_features_and_arrow_schema_agree(class_names: tuple[str, ...] | None) -> None:
    """`datasets` makes of the features the very Arrow types that the Parquet files have."""
    features = datasets.Features.from_dict(features_dict(512, class_names))
    assert (
        features.arrow_schema.remove_metadata() == data_schema(512, class_names).remove_metadata()
    )
    assert datasets.Features.from_arrow_schema(data_schema(512, class_names)) == features


def test_meta_is_the_arrow_struct() -> None:
    """The meta of a sample has the fields of the Arrow struct, in its order."""
    meta = make_sample(0).meta
    struct = data_schema(8, None).field("meta").type
    assert list(meta) == [field.name for field in struct]
    assert pa.array([meta], struct).to_pylist() == [meta]
