"""What bounds a memory-bound kernel: bytes, bytes in flight, instructions. Predicts; measures nothing."""

from dataclasses import dataclass

# Of the vendor's peak bandwidth, what a copy reaches: 3.0 of an H100's 3.35 TB/s, as measured on one. Assumed of the
# others too, where it flatters the issue budget least.
COPY_SHARE = 0.9
# Seconds; round figures, on the high side. Hopper's L2 answers in 0.15 µs and its memory in 0.3 when idle (Luo et al.
# 2024, "Benchmarking and Dissecting the Nvidia Hopper GPU Architecture via Microbenchmarking"); under load about three
# times that.
L2_LATENCY = 0.3e-6
MEMORY_LATENCY = 1.0e-6
DEPENDENT_READS = 3  # from L2, one after another: chunk map, table and scalars' row, scalars


@dataclass(frozen=True)
class GPU:
    """A GPU's arithmetic and memory, from its vendor's data sheet.

    Args:
        name: the product.
        cores: streaming multiprocessors, or compute units.
        clock: boost clock in Hz.
        bandwidth: peak bytes a second.
        lanes: lane-instructions that a core issues a cycle: four warp schedulers of 32 lanes; on CDNA3 four SIMDs that
            take four cycles each for a wave of 64.
        registers: 32-bit registers a core (AMD: a SIMD lane).
        threads: resident threads a core.
        programs: resident programs a core.
    """

    name: str
    cores: int
    clock: float
    bandwidth: float
    lanes: int = 128
    registers: int = 65536
    threads: int = 2048
    programs: int = 32

    @property
    def instructions_a_byte(self) -> float:
        """Lane-instructions that can be issued in the time a copy moves a byte."""
        return self.cores * self.lanes * self.clock / (self.bandwidth * COPY_SHARE)

    def resident_programs(self, registers: int, num_warps: int) -> int:
        """Programs a core holds at once, by registers, threads and the core's own limit."""
        if self.lanes == 64:
            # CDNA3: 512 registers a lane, handed out by eight; at most eight waves a SIMD; four SIMDs.
            waves = 4 * min(8, self.registers // (8 * -(-registers // 8)))
            return min(waves // num_warps, self.programs)
        # NVIDIA hands registers out by 256 a warp, that is by eight a thread.
        by_registers = self.registers // (8 * -(-registers // 8) * 32 * num_warps)
        return min(by_registers, self.threads // (32 * num_warps), self.programs)


GPUS = {
    "sm_80": GPU("A100 80GB SXM", cores=108, clock=1.41e9, bandwidth=2.039e12),
    "sm_90": GPU("H100 SXM", cores=132, clock=1.755e9, bandwidth=3.35e12),
    "sm_100": GPU("B200", cores=148, clock=1.965e9, bandwidth=8.0e12),
    "gfx942": GPU("MI300X", cores=304, clock=2.1e9, bandwidth=5.3e12, lanes=64, registers=512),
}


@dataclass(frozen=True)
class Prediction:
    """A share of copy bandwidth, and what it would be limited by. Not a measurement."""

    share: float
    limit: str


def predict(
    gpu: GPU, programs: int, elements: int, bytes_an_element: float, least_bytes: float, instructions: float
) -> Prediction:
    """The lowest of three roofs.

    Args:
        programs: resident ones a core.
        elements: a program's.
        bytes_an_element: as compiled.
        least_bytes: an element's fewest, which is what a share of bandwidth counts.
        instructions: an element's, all told.
    """
    rate = gpu.bandwidth * COPY_SHARE / gpu.cores
    life = DEPENDENT_READS * L2_LATENCY + MEMORY_LATENCY
    roofs = {
        "memory": 1.0,
        "latency": programs * elements * bytes_an_element / (life * rate),  # Little's law over a program's whole life
        "issue": bytes_an_element * gpu.instructions_a_byte / instructions,
    }
    limit = min(roofs, key=roofs.__getitem__)
    return Prediction(roofs[limit] * least_bytes / bytes_an_element, limit)
