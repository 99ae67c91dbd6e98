"""Tests of the demo model that ships, and of the tools that made it."""
