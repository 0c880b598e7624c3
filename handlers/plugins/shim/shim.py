"""Runs a plugin of grout that is a Python file: execute(data), else run(data), sync or async.

Started by grout as `python3 shim.py FOLDER ENTRY NAME`. Requests come on descriptor 3, answers
go to descriptor 4, each a line of JSON; what the plugin prints goes to its log.
"""

import asyncio
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import signal
import sys
import threading
import traceback
import types

REQUESTS, ANSWERS = 3, 4
pid = os.getpid()


class Lines:
    """The lines of a descriptor."""

    def __init__(self, fd):
        self.fd, self.rest, self.looked = fd, bytearray(), 0

    def whole(self):
        """The next line that is already here, None when there is none."""
        end = self.rest.find(b"\n", self.looked)
        if end < 0:
            self.looked = len(self.rest)
            return None
        line = bytes(self.rest[:end])
        del self.rest[: end + 1]
        self.looked = 0
        return line

    def more(self):
        part = os.read(self.fd, 1 << 20)
        self.rest += part
        return bool(part)

    def next(self):
        """The next line, None at the end."""
        line = self.whole()
        while line is None:
            if not self.more():
                return None
            line = self.whole()
        return line


requests = Lines(REQUESTS)
turn = threading.RLock()  # of who writes an answer, and reads what it brings
current = None  # the id of the call that runs


def write(message):
    text = memoryview(message + b"\n")
    while text:
        text = text[os.write(ANSWERS, text) :]


def dump(value):
    """JSON as FastAPI writes it."""
    try:
        text = json.dumps(value, default=plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except TypeError:  # keys that JSON does not have
        text = json.dumps(keyed(value), default=plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8")


def keyed(value):
    if isinstance(value, dict):
        return {key_of(k): keyed(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [keyed(v) for v in value]
    if isinstance(value, (str, int, float)) or value is None:
        return value
    return keyed(plain(value))


def key_of(key):
    if isinstance(key, (str, int, float)) or key is None:
        return key
    key = plain(key)
    return key if isinstance(key, (str, int, float)) or key is None else str(key)


def plain(value):
    """What JSON has in place of a value that it does not have."""
    import collections
    import dataclasses
    import datetime
    import decimal
    import enum
    import ipaddress
    import pathlib
    import re
    import uuid

    if hasattr(value, "model_dump"):  # pydantic 2
        return value.model_dump(mode="json", by_alias=True)
    if hasattr(value, "__fields__") and hasattr(value, "dict"):  # pydantic 1
        return value.dict(by_alias=True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        exponent = value.as_tuple().exponent
        return int(value) if isinstance(exponent, int) and exponent >= 0 else float(value)
    if isinstance(value, (uuid.UUID, pathlib.PurePath)):
        return str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode()
    if isinstance(value, (set, frozenset, types.GeneratorType, collections.deque)):
        return list(value)
    if isinstance(value, re.Pattern):
        return value.pattern
    if isinstance(value, (ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Interface,
                          ipaddress.IPv6Interface, ipaddress.IPv4Network, ipaddress.IPv6Network)):
        return str(value)
    if type(value).__module__.split(".")[0] in ("pydantic", "pydantic_core", "bson"):  # secrets, addresses, ObjectId
        return str(value)
    if hasattr(value, "tolist") and type(value).__module__.split(".")[0] == "numpy":
        return value.tolist()
    try:
        return dict(value)
    except Exception:
        pass
    try:
        return vars(value)
    except TypeError:
        raise ValueError("Object of type %s is not JSON serializable" % type(value).__name__) from None


class Published:
    """What publish gives back. It can be awaited, and need not be."""

    def __await__(self):
        return iter(())


def publish(name, data=None):
    """Publishes the fact plugin.<name> while a call runs."""
    with turn:
        if current is None:
            raise RuntimeError("publish works while a call runs; nothing runs now")
        write(dump({"publish": {"name": str(name), "data": {} if data is None else data, "ack": True}}))
        line = requests.next()
        if line is None:
            os._exit(0)
        answer = json.loads(line)
    if answer.get("published") is not True:
        raise RuntimeError("publish %s: %s" % (name, answer.get("error")))
    return Published()


def missing(name):
    return ImportError(
        "%s is not there for plugins that grout runs: there are core.event_bus (publish) and core.config.database (db). "
        "Who calls is in data['_context'], what the plan allows in data['_entitlements'], "
        "settings come from runtime.env in plugin.yaml; copy other code into the plugin's folder." % name
    )


class EventBus:
    """The part of the event bus that plugins have."""

    def publish(self, name, data=None):
        return publish(name, data)

    def subscribe(self, *_):
        raise RuntimeError("plugins publish and do not subscribe: let a program take plugin.<name> from NATS")

    on = subscribe


def open_database():
    uri = os.environ.get("DATABASE_URI")
    if not uri:
        raise ImportError("core.config.database needs DATABASE_URI: set it where grout is started")
    try:
        from motor.motor_asyncio import AsyncIOMotorClient
    except ImportError:
        raise ImportError("core.config.database needs motor: install it for the Python that runs the plugin (%s)" % sys.executable) from None
    client = AsyncIOMotorClient(uri)
    return client, client.get_default_database("MozaiksCore")


class Core(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of core that plugins have, and those that lie in the plugin's own folder."""

    def __init__(self, folder):
        self.folder = folder

    def find_spec(self, name, path=None, target=None):
        if name != "core" and not name.startswith("core."):
            return None
        if name not in ("core", "core.event_bus", "core.config", "core.config.database"):
            own = importlib.machinery.PathFinder.find_spec(name, path)
            if own is None:
                raise missing(name)
            return own
        return importlib.machinery.ModuleSpec(name, self, is_package=name in ("core", "core.config"))

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        name = module.__name__
        if name == "core.event_bus":
            module.EventBus, module.publish = EventBus, publish
            module.event_bus = EventBus()
        elif name == "core.config.database":
            module.client, module.db = open_database()
        else:
            module.__path__ = [os.path.join(self.folder, *name.split("."))]
            module.__getattr__ = lambda attr: self.member(name, attr)
            return
        module.__getattr__ = lambda attr: self.absent(name, attr)

    def member(self, name, attr):
        if attr.startswith("__"):
            raise AttributeError(attr)
        return importlib.import_module(name + "." + attr)

    def absent(self, name, attr):
        if attr.startswith("__"):
            raise AttributeError(attr)
        raise missing(name + "." + attr)


def load(folder, entry, name):
    """Imports the plugin as plugins.<name>, with its folder as a package."""
    sys.meta_path.insert(0, Core(folder))
    root = types.ModuleType("plugins")
    root.__path__ = [os.path.dirname(folder)]
    sys.modules["plugins"] = root
    where = os.path.join(folder, entry)
    sys.path[0:1] = []
    sys.path += [os.path.dirname(where), folder]
    package(root, "plugins." + name, folder)
    parts = entry[: -len(".py")].split("/") if entry.endswith(".py") else [entry]
    for i in range(len(parts) - 1):
        above = "plugins." + ".".join([name] + parts[:i])
        package(sys.modules[above], "plugins." + ".".join([name] + parts[: i + 1]), os.path.join(folder, *parts[: i + 1]))
    full = ".".join(["plugins", name] + parts)
    spec = importlib.util.spec_from_file_location(full, where)
    if spec is None:
        raise ImportError("%s is not a file of Python" % entry)
    module = importlib.util.module_from_spec(spec)
    sys.modules[full] = module
    spec.loader.exec_module(module)
    for function in ("execute", "run"):
        if callable(getattr(module, function, None)):
            return getattr(module, function)
    raise AttributeError("%s has neither execute(data) nor run(data)" % entry)


def package(above, full, folder):
    """Makes a package of a folder, with its __init__.py when there is one."""
    init = os.path.join(folder, "__init__.py")
    if os.path.isfile(init):
        spec = importlib.util.spec_from_file_location(full, init, submodule_search_locations=[folder])
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module
        spec.loader.exec_module(module)
    else:
        module = types.ModuleType(full)
        module.__path__ = [folder]
        module.__package__ = full
        sys.modules[full] = module
    setattr(above, full.rpartition(".")[2], module)


def text_of(error):
    return str(error) or type(error).__name__


def answer(loop, function, message):
    """The line that answers a call."""
    global current
    call = message["call"]
    current = call
    try:
        result = function(message["data"])
        if hasattr(result, "__await__"):
            result = loop.run_until_complete(result)
        body = b'"result":' + dump(result)
    except BaseException as error:  # what a plugin raises never ends its worker
        traceback.print_exc()
        text = text_of(error)
        if isinstance(error, (SystemExit, KeyboardInterrupt, GeneratorExit)):
            text = "the plugin raised %s(%s)" % (type(error).__name__, error)
        body = b'"error":' + json.dumps(text).encode()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass
    if os.getpid() != pid:
        os._exit(0)  # a child that the plugin has forked came back from its function
    with turn:
        current = None
        write(b'{"call":' + json.dumps(call).encode() + b"," + body + b"}")


def waiting(loop):
    """The next request. Tasks that a plugin has left go on meanwhile."""
    line = requests.whole()
    if line is not None:
        return line
    if not asyncio.all_tasks(loop):
        return requests.next()
    come = loop.create_future()

    def readable():
        if not requests.more():
            come.set_result(None)
            loop.remove_reader(REQUESTS)
            return
        found = requests.whole()
        if found is not None:
            come.set_result(found)
            loop.remove_reader(REQUESTS)

    loop.add_reader(REQUESTS, readable)
    return loop.run_until_complete(come)


def main():
    folder, entry, name = sys.argv[1:4]
    sys.argv = [os.path.join(folder, entry)]
    for fd in (REQUESTS, ANSWERS):
        os.set_inheritable(fd, False)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")
    signal.signal(signal.SIGTERM, lambda *_: None)  # grout decides when a worker ends
    requests.next()  # the greeting
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        function = load(folder, entry, name)
    except BaseException as error:
        traceback.print_exc()
        write(json.dumps({"error": "%s: %s" % (type(error).__name__, error)}).encode())
        return
    write(json.dumps({"ready": True, "python": sys.executable}).encode())
    while True:
        line = waiting(loop)
        if line is None:
            return
        answer(loop, function, json.loads(line))


main()
