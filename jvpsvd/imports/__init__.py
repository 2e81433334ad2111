"""What is imported late: packages of an extra, and whatever waits for torch."""

from jvpsvd.imports.extras import importing, is_installed, package_folder, require
from jvpsvd.imports.first_use import import_at_first_use

__all__ = ["import_at_first_use", "importing", "is_installed", "package_folder", "require"]
