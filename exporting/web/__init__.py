"""The avatar on a web page and for the package in web/; see docs/web.md."""

from exporting.web.export import export_file, export_web

__all__ = ["export_file", "export_web"]
