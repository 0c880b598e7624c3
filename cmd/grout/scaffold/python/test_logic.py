# Run with: python3 -m unittest discover -s __DIR__
import unittest

from logic import execute


class Execute(unittest.TestCase):
    def test_greets_by_name(self):
        self.assertEqual(execute({"user_id": "u1", "name": "Ann"}), {"text": "Hello Ann!"})

    def test_greets_the_user_without_a_name(self):
        self.assertEqual(execute({"user_id": "u1"}), {"text": "Hello u1!"})

    def test_shouts(self):
        self.assertEqual(execute({"user_id": "u1", "action": "shout"}), {"text": "HELLO U1!"})


if __name__ == "__main__":
    unittest.main()
