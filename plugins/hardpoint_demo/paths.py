"""Places of the files that ship with this package."""

from pathlib import Path

PACKAGE_PATH: Path = Path(__file__).resolve().parent
MODEL_PATH: Path = PACKAGE_PATH / "model"
TEMPLATE_PATH: Path = PACKAGE_PATH / "chat_template.jinja"


def model_folder() -> Path:
    """Return the folder of the bundled checkpoint."""
    return MODEL_PATH
