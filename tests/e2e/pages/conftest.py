"""The school, the browser and the visitors that every page test meets."""

from tests.support.pages import browser, school, visit

__all__ = ["browser", "school", "visit"]
