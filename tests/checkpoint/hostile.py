"""Pickles that an attacker might write, opcode by opcode."""

import pickle
from struct import pack

ROOTS = (
    ("canary", "touch"),
    ("canary", "Touches"),
    ("builtins", "exec"),
    ("builtins", "eval"),
    ("builtins", "getattr"),
    ("builtins", "__import__"),
    ("importlib", "import_module"),
    ("operator", "methodcaller"),
    ("functools", "partial"),
    ("copyreg", "_reconstructor"),
    ("subprocess", "Popen"),
    ("pty", "spawn"),
    ("torch.serialization", "os.system"),
    ("torch._utils", "importlib.import_module"),
    ("novograd.checkpoint.pickles", "pickle.loads"),
    ("novograd.checkpoint.pickles", "load"),
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._tensor", "_rebuild_from_type_v2"),
    ("torch.jit._serialization", "load"),
    ("torch", "load"),
    ("novograd.variants", "Variant"),
)
REFUSED = (("os", "system"), ("posix", "system"), ("nt", "system"), ("sys", "exit"))
EXTENSION = 0xF0


def text(value):
    data = value.encode()
    return pickle.BINUNICODE + pack("<I", len(data)) + data


def by_global(module, name):
    return f"c{module}\n{name}\n".encode()


def by_stack(module, name):
    return text(module) + text(name) + pickle.STACK_GLOBAL


NAMED = (by_global, by_stack)


def uses(named, arguments):
    """Returns opcodes that would call, instantiate, fill or set the named object."""
    one = arguments + pickle.TUPLE1
    state = pickle.EMPTY_DICT + text("__class__") + named + pickle.SETITEM
    return (
        named,
        named + one + pickle.REDUCE,
        named + one + pickle.REDUCE + one + pickle.REDUCE,  # calls the returned object
        named + one + pickle.NEWOBJ,
        named + one + pickle.EMPTY_DICT + pickle.NEWOBJ_EX,
        pickle.MARK + named + arguments + pickle.OBJ,
        named + state + pickle.BUILD,
        named + one + pickle.REDUCE + state + pickle.BUILD,
        named + one + pickle.REDUCE + pickle.NONE + state + pickle.TUPLE2 + pickle.BUILD,
        named + one + pickle.REDUCE + arguments + pickle.APPEND,
        named + one + pickle.REDUCE + pickle.MARK + arguments + pickle.APPENDS,
        named + one + pickle.REDUCE + pickle.MARK + arguments + pickle.ADDITEMS,
        named + one + pickle.REDUCE + text("__call__") + named + pickle.SETITEM,
        named + pickle.BINPERSID,
        pickle.EMPTY_DICT + state + pickle.BUILD,
        pickle.EMPTY_LIST + pickle.NONE + state + pickle.TUPLE2 + pickle.BUILD,
    )


def attacks(roots, path):
    """Yields pickle programs that would create a file. Each leaves one object on the stack."""
    for module, name in roots:
        for write in NAMED:
            yield from uses(write(module, name), text(str(path)))
        yield f"({text_line(path)}i{module}\n{name}\n".encode()


def extensions():
    """Yields pickle programs that use a registered extension."""
    for opcode in (pickle.EXT1 + pack("<B", EXTENSION), pickle.EXT2 + pack("<H", EXTENSION)):
        yield from uses(opcode, text("x"))
    yield from uses(pickle.EXT4 + pack("<i", EXTENSION), text("x"))


def text_line(value):
    return f"V{value}\n"
