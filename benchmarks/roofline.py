"""Predicts what bounds a kernel: memory bandwidth, bytes in flight or instructions. Nothing here is measured."""

from dataclasses import dataclass

# The share of its vendor's peak bandwidth that a copy reaches: 3.0 of an H100's 3.35 TB/s, as measured on one. It is
# assumed to be the same on the other GPUs.
COPY_SHARE = 0.9
# Seconds, rounded up. Hopper's L2 answers in 0.15 µs and its memory in 0.3 µs when idle, and in about three times that
# under load (Luo et al. 2024, "Benchmarking and Dissecting the Nvidia Hopper GPU Architecture via Microbenchmarking").
L2_LATENCY = 0.3e-6
MEMORY_LATENCY = 1.0e-6
DEPENDENT_READS = 3  # from L2, each waiting for the last: the chunk map, the table with the row's number, the scalars


@dataclass(frozen=True)
class GPU:
    """A GPU's size and speed, from its vendor's data sheet.

    Args:
        name: the product.
        cores: streaming multiprocessors, or AMD's compute units.
        clock: boost clock in Hz.
        bandwidth: peak bytes per second.
        lanes: instructions that a core issues per cycle, counted per lane: four warp schedulers of 32 lanes; on CDNA3
            four SIMDs that take four cycles each for a wave of 64.
        registers: 32-bit registers per core (AMD: per SIMD lane).
        threads: threads that a core can hold.
        programs: programs that a core can hold.
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
        """Return the instructions, counted per lane, that can be issued while a copy moves one byte."""
        return self.cores * self.lanes * self.clock / (self.bandwidth * COPY_SHARE)

    def resident_programs(self, registers: int, num_warps: int) -> int:
        """Return how many programs a core holds at once; registers, threads and the core itself limit it."""
        if self.lanes == 64:
            # CDNA3 has 512 registers per lane, allocated in steps of 8, and four SIMDs of at most eight waves each.
            waves = 4 * min(8, self.registers // (8 * -(-registers // 8)))
            return min(waves // num_warps, self.programs)
        # NVIDIA allocates registers in steps of 256 per warp, that is 8 per thread.
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
    """The share of copy bandwidth that is predicted, and what limits it."""

    share: float
    limit: str


def predict(
    gpu: GPU, programs: int, elements: int, bytes_an_element: float, least_bytes: float, instructions: float
) -> Prediction:
    """Return the lowest of three bounds: memory bandwidth, latency and instruction issue.

    Args:
        gpu: the GPU.
        programs: how many a core holds at once.
        elements: how many a program updates.
        bytes_an_element: loads and stores as compiled.
        least_bytes: the fewest bytes an element needs; the share of bandwidth counts these.
        instructions: per element, those before the branch included.
    """
    rate = gpu.bandwidth * COPY_SHARE / gpu.cores
    life = DEPENDENT_READS * L2_LATENCY + MEMORY_LATENCY
    roofs = {
        "memory": 1.0,
        "latency": programs * elements * bytes_an_element / (life * rate),  # Little's law, over a program's life
        "issue": bytes_an_element * gpu.instructions_a_byte / instructions,
    }
    limit = min(roofs, key=roofs.__getitem__)
    return Prediction(roofs[limit] * least_bytes / bytes_an_element, limit)
