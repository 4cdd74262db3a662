"""Reads machine code: which instructions a thread executes in the common case, and what it has in flight."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Instruction:
    """One line of SASS or AMD assembly.

    Args:
        opcode: mnemonic with its suffixes, such as `LDG.E.128`.
        text: the whole instruction.
        target: index of the instruction it may branch to, if it is a branch within the kernel.
        conditional: whether it may also do nothing.
    """

    opcode: str
    text: str
    target: int | None
    conditional: bool


@dataclass(frozen=True)
class Dialect:
    """What has to be known of an instruction set to walk its code."""

    instruction: str  # groups: predicate, opcode, operands
    label: str
    end: str
    call: str
    wide_load: str
    branch: str
    issued: str  # what takes a slot of the vector pipes
    waits: Callable[[Instruction, set[str], int], bool]  # given the registers loaded so far, and by how many loads


def _reads_loaded(instruction: Instruction, loaded: set[str], count: int) -> bool:
    return not loaded.isdisjoint(_registers(instruction.text))


def _waits_for_loads(instruction: Instruction, loaded: set[str], count: int) -> bool:
    outstanding = re.search(r"s_waitcnt.*vmcnt\((\d+)\)", instruction.text)  # as many may be outstanding afterwards
    return outstanding is not None and int(outstanding.group(1)) < count


SASS = Dialect(
    instruction=r"\s*/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+ )?([A-Z][\w.]*)([^;]*);",
    label=r"(\.L_x_\d+|\.text\.\w+):",
    end=r"EXIT|RET",
    call=r"CALL",
    wide_load=r"LDG\.E\.128",
    branch=r"BRA",
    issued=r"",
    waits=_reads_loaded,
)
# An s_ instruction issues from a scalar unit beside the vector ones, and so costs them nothing.
AMDGCN = Dialect(
    instruction=r"\s+()([sv]_\w+|(?:global|flat|buffer|ds)_\w+)([^;]*)",
    label=r"(\.LBB\d+_\d+):",
    end=r"s_endpgm",
    call=r"s_swappc|s_setpc",
    wide_load=r"(?:global|flat)_load_dwordx4",
    branch=r"s_c?branch",
    issued=r"[vgfd]",
    waits=_waits_for_loads,
)


@dataclass(frozen=True)
class CommonCase:
    """What a thread executes that updates its part of a whole, aligned chunk.

    Args:
        head: instructions before the branch that tells whole chunks from others.
        body: instructions from there to the end, on the cheapest way that calls no subroutine: a correctly rounded
            division or square root calls one for operands near the ends of float32's range only.
        in_flight: 128-bit loads issued before the first wait for one of them.
        accesses: bytes of every load and store of global memory in the body.
    """

    head: int
    body: int
    in_flight: int
    accesses: tuple[int, ...]


def common_case(assembly: str, dialect: Dialect) -> CommonCase:
    """Finds the branch that has the 128-bit accesses and walks it to its end."""
    code = parse(assembly, dialect)
    wide = next((i for i, one in enumerate(code) if re.match(dialect.wide_load, one.opcode)), None)
    if wide is None:
        raise ValueError("the compiled code has no 128-bit load")
    leads_here = [i for i in range(wide) if re.match(dialect.branch, code[i].opcode)]
    targets = [one.target for one in code if one.target is not None and one.target <= wide]
    start = max([0, *(i + 1 for i in leads_here), *targets])
    body = [code[i] for i in _cheapest(code, start, dialect)]
    head = [code[i] for i in _cheapest(code, 0, dialect, start)]
    return CommonCase(
        head=_issued(head, dialect),
        body=_issued(body, dialect),
        in_flight=_in_flight(body, dialect),
        accesses=tuple(size for one in body if (size := _access_bytes(one.opcode))),
    )


def parse(assembly: str, dialect: Dialect) -> list[Instruction]:
    """The instructions of the listing, in order, with branches resolved."""
    labels: dict[str, int] = {}
    found: list[tuple[str, str, str]] = []
    for line in assembly.splitlines():
        if label := re.match(dialect.label, line.strip()):
            labels[label.group(1)] = len(found)
        elif one := re.match(dialect.instruction, line):
            found.append((one.group(1) or "", one.group(2), one.group(3)))
    code = []
    for predicate, opcode, operands in found:
        name = re.search(r"\.L\w+", operands) if re.match(dialect.branch, opcode) else None
        conditional = bool(predicate) or "cbranch" in opcode or bool(re.match(r"\s*!?U?P\d", operands))
        target = labels.get(name.group(0)) if name else None
        code.append(Instruction(opcode, f"{opcode}{operands}", target, conditional))
    return code


def _cheapest(code: list[Instruction], start: int, dialect: Dialect, goal: int | None = None) -> list[int]:
    """The shortest way from `start` to `goal`, or to the end, that neither calls nor jumps back."""

    def successors(i: int) -> list[int]:
        one = code[i]
        if re.match(dialect.call, one.opcode):
            return []
        following = [] if one.target is None else [one.target]
        if one.conditional or not re.match(f"{dialect.end}|{dialect.branch}", one.opcode):
            following.append(i + 1)
        return [j for j in following if i < j < len(code)]

    def arrived(i: int) -> bool:
        if goal is not None:
            return i == goal
        return not code[i].conditional and re.match(dialect.end, code[i].opcode) is not None

    # Backwards from the last instruction: all ways lead forwards.
    length: dict[int, float] = {}
    onward: dict[int, int] = {}
    for i in reversed(range(start, len(code))):
        if arrived(i):
            length[i] = 1
            continue
        ways = [(length[j], j) for j in successors(i) if j in length]
        if ways:
            shortest, onward[i] = min(ways)
            length[i] = shortest + 1
    if start not in length:
        raise ValueError(f"no way without a call leads on from instruction {start}")
    way = [start]
    while way[-1] in onward:
        way.append(onward[way[-1]])
    return way[:-1] if goal is not None else way


def _access_bytes(opcode: str) -> int:
    """What one thread's load or store of global memory moves; 0 for any other instruction."""
    access = re.match(r"(?:LD|ST)G\.E(?:\.(\w+))?|(?:global|flat)_(?:load|store)_([a-z]*\d*)", opcode)
    if access is None:
        return 0
    sizes = {"128": 16, "dwordx4": 16, "dwordx3": 12, "64": 8, "dwordx2": 8, "U16": 2, "ushort": 2, "short": 2}
    return sizes.get(access.group(1) or access.group(2), 4)


def _issued(code: list[Instruction], dialect: Dialect) -> int:
    return sum(re.match(dialect.issued, one.opcode) is not None for one in code)


def _in_flight(body: list[Instruction], dialect: Dialect) -> int:
    loaded: set[str] = set()
    count = 0
    for one in body:
        if re.match(dialect.wide_load, one.opcode):
            count += 1
            first = re.search(r"[Rv]\[?(\d+)", one.text.removeprefix(one.opcode))
            base = int(first.group(1)) if first else 0
            loaded |= {f"R{base + i}" for i in range(4)}
        elif dialect.waits(one, loaded, count):
            break
    return count


@cache
def _registers(text: str) -> frozenset[str]:
    """Registers named in a SASS instruction; a 64-bit operand names the first of two."""
    named = re.findall(r"\bR(\d+)(\.64)?", text)
    return frozenset(f"R{int(n) + i}" for n, pair in named for i in range(2 if pair else 1))
