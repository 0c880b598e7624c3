"""__TITLE__.

grout calls execute with a dict: what the client sent, with user_id, app_id, _context and
_entitlements added. What it returns is sent to the client as JSON. What it prints goes to
the plugin's log. It may be a coroutine as well.
"""


def execute(data):
    who = data.get("name") or data["user_id"]
    print(f"greeting {who}")
    if data.get("action") == "shout":
        return {"text": f"HELLO {who.upper()}!"}
    return {"text": f"Hello {who}!"}
