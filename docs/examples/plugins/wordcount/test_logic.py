# Run in the folder above with: python3 -m unittest wordcount.test_logic
import asyncio
import unittest

from .logic import execute


class Execute(unittest.TestCase):
    def run_with(self, **data):
        return asyncio.run(execute({"user_id": "u1", **data}))

    def test_counts(self):
        self.assertEqual(self.run_with(text="so it goes, again"), {"words": 4, "longest": "again"})

    def test_nothing_to_count(self):
        self.assertEqual(self.run_with(text=""), {"words": 0, "longest": None})

    def test_no_text(self):
        self.assertEqual(self.run_with()["error_code"], "BAD_TEXT")
