"""Reads machine code: the instructions that a thread executes in the common case, and the loads it has in flight."""

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
        target: index of the instruction that it branches to, for a branch within the kernel.
        conditional: whether a predicate can turn it off.
    """

    opcode: str
    text: str
    target: int | None
    conditional: bool


@dataclass(frozen=True)
class Dialect:
    """What has to be known of an instruction set to walk its code, as regular expressions.

    Args:
        instruction: a line; its groups are predicate, opcode and operands.
        label: a line that names the instruction after it.
        end: opcodes that end the kernel.
        call: opcodes that call a subroutine.
        wide_load: opcodes of 128-bit loads from global memory.
        branch: opcodes of branches.
        issued: opcodes that take an issue slot of the vector units.
        waits: tells whether an instruction waits for a load, given the registers loaded so far and the number of loads.
    """

    instruction: str
    label: str
    end: str
    call: str
    wide_load: str
    branch: str
    issued: str
    waits: Callable[[Instruction, set[str], int], bool]


def _reads_loaded(instruction: Instruction, loaded: set[str], count: int) -> bool:
    """Return whether a SASS instruction reads a register that a load writes."""
    return not loaded.isdisjoint(_registers(instruction.text))


def _waits_for_loads(instruction: Instruction, loaded: set[str], count: int) -> bool:
    """Return whether an AMD instruction waits for a load: `s_waitcnt` names how many may still be outstanding."""
    outstanding = re.search(r"s_waitcnt.*vmcnt\((\d+)\)", instruction.text)
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
# What ptxas makes SASS of. It tells no registers and no waits, but the same accesses, and needs no disassembler.
PTX = Dialect(
    instruction=r"\s+(@!?%p\d+ )?([a-z][\w.:]*)([^;]*);",
    label=r"(\$L\w+):",
    end=r"ret",
    call=r"call",
    wide_load=r"ld\.global\.(?:v4\.b32|v2\.b64)",
    branch=r"bra",
    issued=r"",
    waits=lambda instruction, loaded, count: False,
)
# Instructions named s_ run on a scalar unit of their own, and take no issue slot of the vector units.
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
    """Counts in the code by which a thread updates its part of a whole, aligned chunk.

    Args:
        head: instructions before the branch that tells whole chunks from others.
        body: instructions from there to the end, on the shortest path without a call. A correctly rounded division or
            square root calls a subroutine only for operands near the ends of float32's range.
        in_flight: 128-bit loads issued before the first wait for one of them.
        accesses: bytes of each load and store of global memory in the body.
    """

    head: int
    body: int
    in_flight: int
    accesses: tuple[int, ...]


def common_case(assembly: str, dialect: Dialect) -> CommonCase:
    """Find the branch with the 128-bit accesses and count along its shortest path."""
    code = parse(assembly, dialect)
    wide = next((i for i, one in enumerate(code) if re.match(dialect.wide_load, one.opcode)), None)
    if wide is None:
        raise ValueError("the compiled code has no 128-bit load")
    leads_here = [i for i in range(wide) if re.match(dialect.branch, code[i].opcode)]
    targets = [one.target for one in code if one.target is not None and one.target <= wide]
    start = max([0, *(i + 1 for i in leads_here), *targets])
    body = [code[i] for i in _shortest_path(code, start, dialect)]
    head = [code[i] for i in _shortest_path(code, 0, dialect, start)]
    return CommonCase(
        head=_issued(head, dialect),
        body=_issued(body, dialect),
        in_flight=_in_flight(body, dialect),
        accesses=tuple(size for one in body if (size := _access_bytes(one.opcode))),
    )


def parse(assembly: str, dialect: Dialect) -> list[Instruction]:
    """Return the instructions of a listing in order, with the targets of branches resolved."""
    labels: dict[str, int] = {}
    found: list[tuple[str, str, str]] = []
    for line in assembly.splitlines():
        if label := re.match(dialect.label, line.strip()):
            labels[label.group(1)] = len(found)
        elif one := re.match(dialect.instruction, line):
            found.append((one.group(1) or "", one.group(2), one.group(3)))
    code = []
    for predicate, opcode, operands in found:
        name = re.search(r"[.$]L\w+", operands) if re.match(dialect.branch, opcode) else None
        conditional = bool(predicate) or "cbranch" in opcode or bool(re.match(r"\s*!?U?P\d", operands))
        target = labels.get(name.group(0)) if name else None
        code.append(Instruction(opcode, f"{opcode}{operands}", target, conditional))
    return code


def _shortest_path(code: list[Instruction], start: int, dialect: Dialect, goal: int | None = None) -> list[int]:
    """Return the shortest path from `start` to `goal`, or to the end, that neither calls nor jumps back."""

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

    # Every path leads forwards, so the lengths are known from the last instruction backwards.
    length: dict[int, float] = {}
    onward: dict[int, int] = {}
    for i in reversed(range(start, len(code))):
        if arrived(i):
            length[i] = 1
            continue
        paths = [(length[j], j) for j in successors(i) if j in length]
        if paths:
            shortest, onward[i] = min(paths)
            length[i] = shortest + 1
    if start not in length:
        raise ValueError(f"no path without a call leads on from instruction {start}")
    path = [start]
    while path[-1] in onward:
        path.append(onward[path[-1]])
    return path[:-1] if goal is not None else path


def _access_bytes(opcode: str) -> int:
    """Return the bytes that a thread's load or store of global memory moves; 0 for any other instruction."""
    if ptx := re.match(r"(?:ld|st)\.global\.(?:v(\d)\.)?b(\d+)", opcode):
        return int(ptx.group(1) or 1) * int(ptx.group(2)) // 8
    access = re.match(r"(?:LD|ST)G\.E(?:\.(\w+))?|(?:global|flat)_(?:load|store)_([a-z]*\d*)", opcode)
    if access is None:
        return 0
    sizes = {"128": 16, "dwordx4": 16, "dwordx3": 12, "64": 8, "dwordx2": 8, "U16": 2, "ushort": 2, "short": 2}
    return sizes.get(access.group(1) or access.group(2), 4)


def _issued(code: list[Instruction], dialect: Dialect) -> int:
    """Return how many instructions take an issue slot of the vector units."""
    return sum(re.match(dialect.issued, one.opcode) is not None for one in code)


def _in_flight(body: list[Instruction], dialect: Dialect) -> int:
    """Return how many 128-bit loads are issued before the first wait for one of them."""
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
    """Return the registers that a SASS instruction uses; a 64-bit operand names the first of two."""
    named = re.findall(r"\bR(\d+)(\.64)?", text)
    return frozenset(f"R{int(n) + i}" for n, pair in named for i in range(2 if pair else 1))
