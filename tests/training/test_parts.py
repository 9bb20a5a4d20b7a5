"""The parts that `model:` names, looked for before anything is loaded."""

import pytest

from stylear.errors import MissingPart
from training.config import ModelPaths
from training.parts import Parts


@pytest.mark.parametrize("name", ["base", "adapter", "vqgan", "image_encoder", "segmenter"])
def test_a_path_that_leads_nowhere_is_told_by_its_setting(tmp_path, name):
    parts = Parts(ModelPaths(**{name: str(tmp_path / "gone")}))
    with pytest.raises(MissingPart, match=rf"model\.{name} is .*gone and nothing is there"):
        parts.pipeline()
    with pytest.raises(MissingPart, match=rf"model\.{name} is .*gone and nothing is there"):
        parts.base() if name == "base" else parts.place(name)
