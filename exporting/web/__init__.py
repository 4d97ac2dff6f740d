"""The avatar on a web page; see docs/web.md."""

from exporting.web.export import export_web

__all__ = ["export_web"]
