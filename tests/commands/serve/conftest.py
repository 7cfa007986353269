import io

import pytest
from PIL import Image


@pytest.fixture(scope="session")
def slow_jpeg() -> bytes:
    """A progressive JPEG whose last scan is repeated: every scan is another pass over all pixels; 3 MB, 90 seconds."""
    file = io.BytesIO()
    Image.new("L", (8000, 8000)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    scan = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + scan * 2000 + content[-2:]
